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

// A keeper is this test binary, run as the parent of everything that one member consists of.
// Patroni starts PostgreSQL as a daemon in a session of its own, which outlives Patroni and which
// no process group covers. The keeper adopts it as a subreaper, so all of a member can be found
// below the keeper, and ends all of it when its input ends. That also happens when the test binary
// is killed.
type keeper struct {
	cmd   *exec.Cmd
	input io.Closer
	ended chan struct{} // closed when the keeper and all below it are gone
}

const keeperCommand = "keep-member"

// startKeeper runs a program below a keeper. The program has the credential; nil is ours.
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
	// an interrupt from the keyboard is for the test alone
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

// kill ends the whole member with SIGKILL, and returns when it is gone.
func (k *keeper) kill() {
	k.input.Close()
	<-k.ended
}

// pause stops the whole member with SIGSTOP, and returns when all of its processes stand still.
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

// keep is what a keeper does. It returns the exit status.
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

// descendants are all processes below one, but for those that have ended.
func descendants(of int) []process {
	children := map[int][]process{}
	files, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended
		}
		// PID (NAME) STATE PARENT …, and a name may hold anything.
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
