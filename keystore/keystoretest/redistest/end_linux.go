package redistest

import "syscall"

// endWithUs makes the server end when this process does, however that comes about.
func endWithUs(attr *syscall.SysProcAttr) { attr.Pdeathsig = syscall.SIGKILL }
