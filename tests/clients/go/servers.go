package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
)

// Servers is the conversation with ../servers.py, which starts and kills servers.
type Servers struct {
	process *exec.Cmd
	in      io.WriteCloser
	out     *bufio.Reader
}

func startServers() (*Servers, error) {
	process := exec.Command("python3", "../servers.py")
	process.Stderr = os.Stderr
	in, err := process.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := process.StdoutPipe()
	if err != nil {
		return nil, err
	}
	return &Servers{process, in, bufio.NewReader(out)}, process.Start()
}

func (s *Servers) ask(line string) (string, error) {
	if _, err := fmt.Fprintln(s.in, line); err != nil {
		return "", err
	}
	answer, err := s.out.ReadString('\n')
	if err != nil {
		return "", err
	}
	answer = strings.TrimSpace(answer)
	if !strings.HasPrefix(answer, "ok") {
		return "", fmt.Errorf("%s: %s", line, answer)
	}
	return strings.TrimSpace(strings.TrimPrefix(answer, "ok")), nil
}

func (s *Servers) stop() {
	s.in.Close()
	s.process.Wait()
}
