package caddymodule

import "github.com/spf13/cobra"

func (c *cli) doctorCommand() *cobra.Command { return &cobra.Command{Use: "doctor"} }
