package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
)

var coreChecks = []check{
	{"core: publish and subscribe with wildcards", corePubSub},
	{"core: a queue group shares messages", coreQueue},
	{"core: request and reply", coreRequest},
	{"core: a request without responders fails at once", coreNoResponders},
	{"core: headers arrive", coreHeaders},
	{"core: drain delivers what is pending", coreDrain},
}

const patience = 10 * time.Second

func corePubSub(url string) error {
	nc, err := nats.Connect(url)
	if err != nil {
		return err
	}
	defer nc.Close()
	star, err := nc.SubscribeSync("core.*.b")
	if err != nil {
		return err
	}
	rest, err := nc.SubscribeSync("core.>")
	if err != nil {
		return err
	}
	nc.Publish("core.a.b", []byte("1"))
	nc.Publish("core.a.c", []byte("2"))
	for _, want := range []struct {
		sub     *nats.Subscription
		subject string
	}{{star, "core.a.b"}, {rest, "core.a.b"}, {rest, "core.a.c"}} {
		m, err := want.sub.NextMsg(patience)
		if err != nil {
			return err
		}
		if m.Subject != want.subject {
			return fmt.Errorf("got %s, want %s", m.Subject, want.subject)
		}
	}
	return nc.Flush()
}

func coreQueue(url string) error {
	nc, err := nats.Connect(url)
	if err != nil {
		return err
	}
	defer nc.Close()
	const messages = 200
	got := make(chan int, 2*messages)
	for member := 0; member < 2; member++ {
		member := member
		if _, err := nc.QueueSubscribe("jobs", "workers", func(*nats.Msg) { got <- member }); err != nil {
			return err
		}
	}
	for i := 0; i < messages; i++ {
		nc.Publish("jobs", nil)
	}
	if err := nc.Flush(); err != nil {
		return err
	}
	counts := [2]int{}
	for i := 0; i < messages; i++ {
		select {
		case member := <-got:
			counts[member]++
		case <-time.After(patience):
			return fmt.Errorf("only %v of %d", counts, messages)
		}
	}
	if counts[0] == 0 || counts[1] == 0 || len(got) != 0 {
		return fmt.Errorf("shares %v, %d too many", counts, len(got))
	}
	return nil
}

func coreRequest(url string) error {
	nc, err := nats.Connect(url)
	if err != nil {
		return err
	}
	defer nc.Close()
	nc.Subscribe("upper", func(m *nats.Msg) { m.Respond(append(m.Data, '!')) })
	m, err := nc.Request("upper", []byte("hi"), patience)
	if err != nil {
		return err
	}
	if string(m.Data) != "hi!" {
		return fmt.Errorf("reply %q", m.Data)
	}
	return nil
}

func coreNoResponders(url string) error {
	nc, err := nats.Connect(url)
	if err != nil {
		return err
	}
	defer nc.Close()
	_, err = nc.Request("nobody.home", nil, patience)
	if !errors.Is(err, nats.ErrNoResponders) {
		return fmt.Errorf("error %v", err)
	}
	return nil
}

func coreHeaders(url string) error {
	nc, err := nats.Connect(url)
	if err != nil {
		return err
	}
	defer nc.Close()
	sub, err := nc.SubscribeSync("headed")
	if err != nil {
		return err
	}
	m := nats.NewMsg("headed")
	m.Header.Add("Color", "red")
	m.Header.Add("Color", "blue")
	m.Data = []byte("body")
	if err := nc.PublishMsg(m); err != nil {
		return err
	}
	got, err := sub.NextMsg(patience)
	if err != nil {
		return err
	}
	if colors := got.Header.Values("Color"); len(colors) != 2 || string(got.Data) != "body" {
		return fmt.Errorf("got %v %q", got.Header, got.Data)
	}
	return nil
}

func coreDrain(url string) error {
	closed := make(chan struct{})
	nc, err := nats.Connect(url, nats.ClosedHandler(func(*nats.Conn) { close(closed) }))
	if err != nil {
		return err
	}
	const messages = 100
	count := 0
	if _, err := nc.Subscribe("drained", func(*nats.Msg) { count++ }); err != nil {
		return err
	}
	for i := 0; i < messages; i++ {
		nc.Publish("drained", nil)
	}
	if err := nc.Drain(); err != nil {
		return err
	}
	select {
	case <-closed:
	case <-time.After(patience):
		return errors.New("drain did not end")
	}
	if count != messages {
		return fmt.Errorf("%d of %d delivered", count, messages)
	}
	return nil
}
