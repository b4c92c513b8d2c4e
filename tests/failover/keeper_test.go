package failover

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A keeper is this test binary, run as the parent of all processes of one member. Patroni starts
// PostgreSQL as a daemon in its own session, which outlives Patroni and is in no process group of
// the test. As a subreaper, the keeper adopts it, so that all processes of a member are descendants
// of the keeper. The keeper kills them when its standard input ends, even if the test binary is
// killed.
type keeper struct {
	cmd   *exec.Cmd
	input io.Closer
	ended chan struct{} // closed when the keeper and its descendants have ended
}

const keeperCommand = "keep-member"

// startKeeper runs a program below a keeper, as the user of the credential; nil is the current
// user.
func startKeeper(
	credential *syscall.Credential, output *os.File, program ...string,
) (*keeper, error) {
	uid, gid := os.Getuid(), os.Getgid()
	if credential != nil {
		uid, gid = int(credential.Uid), int(credential.Gid)
	}
	args := append([]string{keeperCommand, strconv.Itoa(uid), strconv.Itoa(gid)}, program...)
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Stdout, cmd.Stderr = output, output
	// Only the test gets an interrupt from the keyboard.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	input, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	k := &keeper{cmd, input, make(chan struct{})}
	go func() {
		defer close(k.ended)
		cmd.Wait()
	}()
	return k, nil
}

// kill kills the whole member with SIGKILL, and returns when its processes have ended.
func (k *keeper) kill() {
	k.input.Close()
	<-k.ended
}

// pause stops the whole member with SIGSTOP, and returns when all its processes are stopped.
func (k *keeper) pause() error {
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		still := true
		for _, p := range descendants(k.cmd.Process.Pid) {
			if p.state != "T" {
				still = false
				syscall.Kill(p.pid, syscall.SIGSTOP)
			}
		}
		if still {
			return nil
		}
	}
	return fmt.Errorf("the processes below %d do not stop", k.cmd.Process.Pid)
}

func (k *keeper) resume() {
	for _, p := range descendants(k.cmd.Process.Pid) {
		syscall.Kill(p.pid, syscall.SIGCONT)
	}
}

// keep runs a keeper and returns its exit status.
func keep(args []string) int {
	uid, err1 := strconv.ParseUint(args[0], 10, 32)
	gid, err2 := strconv.ParseUint(args[1], 10, 32)
	if err1 != nil || err2 != nil {
		fmt.Fprintln(os.Stderr, "keeper: uid and gid must be numbers:", args[:2])
		return 2
	}
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		fmt.Fprintln(os.Stderr, "keeper: becoming a subreaper:", err)
		return 1
	}
	attr := &syscall.SysProcAttr{}
	if os.Geteuid() == 0 {
		attr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	}
	_, err := os.StartProcess(args[2], args[2:], &os.ProcAttr{
		Dir: "/", Env: os.Environ(), Files: []*os.File{nil, os.Stdout, os.Stderr}, Sys: attr,
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, "keeper:", err)
		return 1
	}
	go func() {
		io.Copy(io.Discard, os.Stdin)
		for ; ; time.Sleep(time.Millisecond) { // a process that is being killed may have forked
			for _, p := range descendants(os.Getpid()) {
				syscall.Kill(p.pid, syscall.SIGKILL)
			}
		}
	}()
	for {
		if _, err := unix.Wait4(-1, nil, 0, nil); err == unix.ECHILD {
			return 0
		}
	}
}

type process struct {
	pid   int
	state string // as in proc(5)
}

// descendants returns the running processes below a process.
func descendants(of int) []process {
	children := map[int][]process{}
	files, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended
		}
		// The format is PID (NAME) STATE PARENT …, and NAME may contain anything.
		name := strings.LastIndex(string(text), ")")
		fields := strings.Fields(string(text[name+1:]))
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		parent, _ := strconv.Atoi(fields[1])
		children[parent] = append(children[parent], process{pid, fields[0]})
	}
	var found []process
	for parents := []int{of}; len(parents) > 0; parents = parents[1:] {
		for _, p := range children[parents[0]] {
			found = append(found, p)
			parents = append(parents, p.pid)
		}
	}
	return slices.DeleteFunc(found,
		func(p process) bool { return p.state == "Z" || p.state == "X" })
}
