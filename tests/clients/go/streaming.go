package main

import (
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/stan.go"
	"github.com/nats-io/stan.go/pb"
)

const clusterID = "test-cluster"

var streamingChecks = []check{
	{"publish, acked one by one", publishSync},
	{"publish asynchronously", publishAsync},
	{"replay from every start position", replay},
	{"a durable goes on where it stopped", durable},
	{"an unsubscribed durable starts anew", durableUnsubscribed},
	{"a queue group shares messages", queueGroup},
	{"a durable queue group outlives its members", durableQueue},
	{"max in flight holds messages back", maxInFlight},
	{"unacked messages come again, acked ones do not", redelivery},
	{"a second client with the same id is refused", duplicateID},
	{"wrong subjects are refused", wrongSubjects},
}

func connect(url, id string, options ...stan.Option) (stan.Conn, error) {
	return stan.Connect(clusterID, id, append([]stan.Option{stan.NatsURL(url)}, options...)...)
}

// collect subscribes and returns the channel of what arrives.
func collect(sc stan.Conn, channel string, options ...stan.SubscriptionOption) (stan.Subscription, chan *stan.Msg, error) {
	got := make(chan *stan.Msg, 10000)
	sub, err := sc.Subscribe(channel, func(m *stan.Msg) { got <- m }, options...)
	return sub, got, err
}

// expect takes the next messages and compares their sequences.
func expect(got chan *stan.Msg, sequences ...uint64) error {
	for _, want := range sequences {
		select {
		case m := <-got:
			if m.Sequence != want {
				return fmt.Errorf("got %d, want %d of %v", m.Sequence, want, sequences)
			}
		case <-time.After(patience):
			return fmt.Errorf("no %d of %v", want, sequences)
		}
	}
	return nil
}

func publishN(sc stan.Conn, channel string, from, to int) error {
	for i := from; i <= to; i++ {
		if err := sc.Publish(channel, []byte(strconv.Itoa(i))); err != nil {
			return err
		}
	}
	return nil
}

func publishSync(url string) error {
	sc, err := connect(url, "go-sync")
	if err != nil {
		return err
	}
	defer sc.Close()
	if err := publishN(sc, "go.sync", 1, 20); err != nil {
		return err
	}
	_, got, err := collect(sc, "go.sync", stan.DeliverAllAvailable())
	if err != nil {
		return err
	}
	for i := 1; i <= 20; i++ {
		m := <-got
		if m.Sequence != uint64(i) || string(m.Data) != strconv.Itoa(i) || m.Redelivered || m.Timestamp == 0 {
			return fmt.Errorf("message %d is %v", i, m)
		}
	}
	return nil
}

func publishAsync(url string) error {
	sc, err := connect(url, "go-async", stan.MaxPubAcksInflight(64))
	if err != nil {
		return err
	}
	defer sc.Close()
	const messages = 2000
	acked := make(chan error, messages)
	guids := map[string]bool{}
	for i := 0; i < messages; i++ {
		guid, err := sc.PublishAsync("go.async", []byte("x"), func(_ string, err error) { acked <- err })
		if err != nil {
			return err
		}
		guids[guid] = true
	}
	for i := 0; i < messages; i++ {
		if err := <-acked; err != nil {
			return err
		}
	}
	_, got, err := collect(sc, "go.async", stan.StartAtSequence(messages))
	if err != nil {
		return err
	}
	if len(guids) != messages {
		return fmt.Errorf("%d guids", len(guids))
	}
	return expect(got, messages)
}

func replay(url string) error {
	sc, err := connect(url, "go-replay")
	if err != nil {
		return err
	}
	defer sc.Close()
	const channel = "go.replay"
	if err := publishN(sc, channel, 1, 3); err != nil {
		return err
	}
	// Time is the subject here: a moment that lies clearly between 3 and 4.
	time.Sleep(200 * time.Millisecond)
	between := time.Now().Add(-100 * time.Millisecond)
	if err := publishN(sc, channel, 4, 5); err != nil {
		return err
	}
	var all []chan *stan.Msg
	var wants [][]uint64
	for _, c := range []struct {
		option stan.SubscriptionOption
		want   []uint64
	}{
		{stan.DeliverAllAvailable(), []uint64{1, 2, 3, 4, 5, 6}},
		{stan.StartAtSequence(3), []uint64{3, 4, 5, 6}},
		{stan.StartWithLastReceived(), []uint64{5, 6}},
		{stan.StartAtTime(between), []uint64{4, 5, 6}},
		{stan.StartAtTimeDelta(time.Since(between)), []uint64{4, 5, 6}},
		{stan.StartAtTimeDelta(time.Hour), []uint64{1, 2, 3, 4, 5, 6}},
		{stan.StartAt(pb.StartPosition_NewOnly), []uint64{6}},
	} {
		_, got, err := collect(sc, channel, c.option)
		if err != nil {
			return err
		}
		all, wants = append(all, got), append(wants, c.want)
	}
	if err := publishN(sc, channel, 6, 6); err != nil {
		return err
	}
	for i, got := range all {
		if err := expect(got, wants[i]...); err != nil {
			return err
		}
	}
	return nil
}

func durable(url string) error {
	const channel = "go.durable"
	sc, err := connect(url, "go-durable")
	if err != nil {
		return err
	}
	if err := publishN(sc, channel, 1, 3); err != nil {
		return err
	}
	options := []stan.SubscriptionOption{stan.DurableName("d"), stan.DeliverAllAvailable(), stan.SetManualAckMode()}
	sub, got, err := collect(sc, channel, options...)
	if err != nil {
		return err
	}
	for i := 0; i < 3; i++ {
		if m := <-got; m.Sequence < 3 {
			m.Ack()
		}
	}
	if _, _, err := collect(sc, channel, options...); err == nil {
		return errors.New("a durable was opened twice")
	}
	if err := sub.Close(); err != nil {
		return err
	}
	if err := publishN(sc, channel, 4, 5); err != nil {
		return err
	}
	// Unacked 3 comes first, then what was published meanwhile; after a new connection too.
	_, got, err = collect(sc, channel, options...)
	if err != nil {
		return err
	}
	if err := expect(got, 3, 4, 5); err != nil {
		return err
	}
	if err := sc.Close(); err != nil {
		return err
	}
	sc, err = connect(url, "go-durable")
	if err != nil {
		return err
	}
	defer sc.Close()
	_, got, err = collect(sc, channel, options...)
	if err != nil {
		return err
	}
	return expect(got, 3, 4, 5)
}

func durableUnsubscribed(url string) error {
	const channel = "go.durable.gone"
	sc, err := connect(url, "go-durable-gone")
	if err != nil {
		return err
	}
	defer sc.Close()
	if err := publishN(sc, channel, 1, 2); err != nil {
		return err
	}
	for round := 0; round < 2; round++ {
		sub, got, err := collect(sc, channel, stan.DurableName("d"), stan.DeliverAllAvailable())
		if err != nil {
			return err
		}
		if err := expect(got, 1, 2); err != nil {
			return err
		}
		if err := sub.Unsubscribe(); err != nil {
			return err
		}
	}
	return nil
}

func queueGroup(url string) error {
	const channel = "go.queue"
	const messages = 200
	sc, err := connect(url, "go-queue")
	if err != nil {
		return err
	}
	defer sc.Close()
	got := [2]chan *stan.Msg{make(chan *stan.Msg, messages), make(chan *stan.Msg, messages)}
	for member := range got {
		own := got[member]
		if _, err := sc.QueueSubscribe(channel, "q", func(m *stan.Msg) { own <- m }); err != nil {
			return err
		}
	}
	if err := publishN(sc, channel, 1, messages); err != nil {
		return err
	}
	seen := map[uint64]bool{}
	for len(seen) < messages {
		var m *stan.Msg
		select {
		case m = <-got[0]:
		case m = <-got[1]:
		case <-time.After(patience):
			return fmt.Errorf("only %d of %d", len(seen), messages)
		}
		if seen[m.Sequence] {
			return fmt.Errorf("%d twice", m.Sequence)
		}
		seen[m.Sequence] = true
	}
	return nil
}

func durableQueue(url string) error {
	const channel = "go.queue.durable"
	sc, err := connect(url, "go-queue-durable")
	if err != nil {
		return err
	}
	defer sc.Close()
	join := func() (stan.Subscription, chan *stan.Msg, error) {
		got := make(chan *stan.Msg, 100)
		sub, err := sc.QueueSubscribe(channel, "q", func(m *stan.Msg) { got <- m },
			stan.DurableName("d"), stan.DeliverAllAvailable(), stan.SetManualAckMode())
		return sub, got, err
	}
	if err := publishN(sc, channel, 1, 3); err != nil {
		return err
	}
	sub, got, err := join()
	if err != nil {
		return err
	}
	for i := 0; i < 3; i++ {
		if m := <-got; m.Sequence != 2 {
			m.Ack()
		}
	}
	if err := sub.Close(); err != nil {
		return err
	}
	if err := publishN(sc, channel, 4, 4); err != nil {
		return err
	}
	_, got, err = join()
	if err != nil {
		return err
	}
	return expect(got, 2, 4)
}

func maxInFlight(url string) error {
	const channel = "go.inflight"
	sc, err := connect(url, "go-inflight")
	if err != nil {
		return err
	}
	defer sc.Close()
	if err := publishN(sc, channel, 1, 10); err != nil {
		return err
	}
	_, got, err := collect(sc, channel, stan.DeliverAllAvailable(), stan.MaxInflight(2), stan.SetManualAckMode())
	if err != nil {
		return err
	}
	for i := uint64(1); i <= 9; i += 2 {
		a, b := <-got, <-got
		if a.Sequence != i || b.Sequence != i+1 {
			return fmt.Errorf("got %d, %d; want %d, %d", a.Sequence, b.Sequence, i, i+1)
		}
		// A publish is a round trip: what was let out too early would have arrived by then.
		if err := publishN(sc, "go.inflight.other", 1, 1); err != nil {
			return err
		}
		if len(got) != 0 {
			return fmt.Errorf("%d messages beyond max in flight", len(got))
		}
		a.Ack()
		b.Ack()
	}
	return nil
}

func redelivery(url string) error {
	const channel = "go.redelivery"
	sc, err := connect(url, "go-redelivery")
	if err != nil {
		return err
	}
	defer sc.Close()
	_, got, err := collect(sc, channel, stan.AckWait(time.Second), stan.SetManualAckMode())
	if err != nil {
		return err
	}
	if err := publishN(sc, channel, 1, 3); err != nil {
		return err
	}
	for i := 0; i < 3; i++ {
		if m := <-got; m.Sequence == 2 {
			m.Ack()
		}
	}
	for _, round := range []uint32{1, 2} {
		for _, want := range []uint64{1, 3} {
			m := <-got
			if m.Sequence != want || !m.Redelivered || m.RedeliveryCount != round {
				return fmt.Errorf("round %d: want %d, got %v", round, want, m)
			}
			if round == 2 {
				m.Ack()
			}
		}
	}
	select {
	case m := <-got:
		return fmt.Errorf("acked, and yet again: %v", m)
	case <-time.After(1500 * time.Millisecond):
		return nil
	}
}

func duplicateID(url string) error {
	sc, err := connect(url, "go-twice")
	if err != nil {
		return err
	}
	defer sc.Close()
	other, err := connect(url, "go-twice")
	if err == nil {
		other.Close()
		return errors.New("not refused")
	}
	if err.Error() != "stan: clientID already registered" {
		return err
	}
	return sc.Publish("go.twice", nil)
}

func wrongSubjects(url string) error {
	sc, err := connect(url, "go-wrong")
	if err != nil {
		return err
	}
	defer sc.Close()
	for _, channel := range []string{"a.*", "a.>"} {
		if err := sc.Publish(channel, nil); err == nil || err.Error() != "stan: invalid publish request" {
			return fmt.Errorf("publish to %q: %v", channel, err)
		}
	}
	return nil
}

// failover publishes while the active is killed twice; a durable and a queue group listen.
func failover(servers *Servers) error {
	urls, err := servers.ask("pair")
	if err != nil {
		return err
	}
	lost := make(chan error, 8)
	sc, err := connect(urls, "go-failover", stan.Pings(1, 60), stan.PubAckWait(time.Second),
		stan.SetConnectionLostHandler(func(_ stan.Conn, err error) { lost <- err }))
	if err != nil {
		return err
	}
	defer sc.Close()
	var mutex sync.Mutex
	durableGot, queueGot := map[string]bool{}, map[string]bool{}
	note := func(into map[string]bool) stan.MsgHandler {
		return func(m *stan.Msg) { mutex.Lock(); into[string(m.Data)] = true; mutex.Unlock() }
	}
	const channel = "go.failover"
	wait := stan.AckWait(2 * time.Second)
	if _, err := sc.Subscribe(channel, note(durableGot), stan.DurableName("d"), wait); err != nil {
		return err
	}
	for i := 0; i < 2; i++ {
		if _, err := sc.QueueSubscribe(channel, "q", note(queueGot), stan.DurableName("q"), wait); err != nil {
			return err
		}
	}
	const rounds, each = 2, 150
	for i := 0; i < (rounds+1)*each; i++ {
		if i > 0 && i%each == 0 {
			if i > each {
				if _, err := servers.ask("heal"); err != nil {
					return err
				}
			}
			if _, err := servers.ask("kill"); err != nil {
				return err
			}
		}
		for {
			if err := sc.Publish(channel, []byte(strconv.Itoa(i))); err == nil {
				break
			}
			if len(lost) > 0 {
				return fmt.Errorf("connection lost: %v", <-lost)
			}
		}
	}
	return verify(sc, channel, (rounds+1)*each, &mutex, durableGot, queueGot)
}

func verify(sc stan.Conn, channel string, acked int, mutex *sync.Mutex, listeners ...map[string]bool) error {
	_, got, err := collect(sc, channel, stan.DeliverAllAvailable())
	if err != nil {
		return err
	}
	stored := map[string]bool{}
	for next := uint64(1); len(stored) < acked; next++ {
		select {
		case m := <-got:
			if m.Sequence != next {
				return fmt.Errorf("sequence %d where %d belongs", m.Sequence, next)
			}
			stored[string(m.Data)] = true
		case <-time.After(patience):
			return fmt.Errorf("%d acked, %d stored", acked, len(stored))
		}
	}
	deadline := time.Now().Add(2 * patience)
	for {
		mutex.Lock()
		missing := 0
		for _, listener := range listeners {
			missing += acked - len(listener)
		}
		mutex.Unlock()
		if missing == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%d deliveries missing", missing)
		}
		time.Sleep(10 * time.Millisecond)
	}
}
