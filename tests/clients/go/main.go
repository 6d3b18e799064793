// Runs stan.go and nats.go against servers of ../servers.py; last line: N passed, N failed. With `load URLS
// LEDGER IN_FLIGHT` it loads servers that somebody else runs.
package main

import (
	"fmt"
	"os"
	"time"
)

// A check that takes longer than this has failed.
const checkBound = 60 * time.Second

type check struct {
	name string
	run  func(url string) error
}

func main() {
	if len(os.Args) == 5 && os.Args[1] == "load" {
		if err := runLoad(os.Args[2], os.Args[3], os.Args[4]); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		return
	}
	servers, err := startServers()
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	passed, failed := 0, 0
	report := func(name string, err error) {
		if err != nil {
			failed++
			fmt.Printf("FAILED go: %s: %v\n", name, err)
			return
		}
		passed++
		fmt.Printf("ok go: %s\n", name)
	}
	url, err := servers.ask("single")
	report("a server starts", err)
	if err == nil {
		for _, c := range append(coreChecks, streamingChecks...) {
			report(c.name, bounded(func() error { return c.run(url) }))
		}
	}
	report("nothing acked is lost across kill -9 of the active", bounded(func() error {
		return failover(servers)
	}))
	servers.stop()
	fmt.Printf("%d passed, %d failed\n", passed, failed)
	if failed > 0 {
		os.Exit(1)
	}
}

func bounded(run func() error) error {
	done := make(chan error, 1)
	go func() { done <- run() }()
	select {
	case err := <-done:
		return err
	case <-time.After(checkBound):
		return fmt.Errorf("not done after %v", checkBound)
	}
}
