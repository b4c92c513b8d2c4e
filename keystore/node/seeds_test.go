//go:build !race

package node

const fewer = 1
