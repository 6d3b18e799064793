package main

import (
	"bufio"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/stan.go"
)

// A load without any retry, for what happens to a group meanwhile: `go-clients load URLS LEDGER IN_FLIGHT`. What
// it does and is told goes into the ledger, whose lines are in ../ledger.md; `tests/group_report` reads it.

const (
	loadPublishers = 2
	loadMembers    = 2
	loadPassers    = 2
	// Of one subscription: a client that has much to take in answers late, which is no fault of a server.
	loadUnackedMax = 128
	// How long durables and queue groups may take to get everything at the end.
	loadCatchUp = 90 * time.Second
)

var loadChannels = []string{"orders", "events", "jobs", "news"}

// Ledger is what happened, line by line; what was written a moment ago is in the file soon.
type Ledger struct {
	mutex sync.Mutex
	file  *os.File
	to    *bufio.Writer
}

func openLedger(path string) (*Ledger, error) {
	file, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	return &Ledger{file: file, to: bufio.NewWriterSize(file, 1<<16)}, nil
}

func (l *Ledger) write(format string, values ...any) {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	fmt.Fprintf(l.to, format+"\n", values...)
}

func (l *Ledger) close() error {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	if err := l.to.Flush(); err != nil {
		return err
	}
	return l.file.Close()
}

// The words of an error, on one line; nothing for none.
func words(err error) string {
	if err == nil {
		return ""
	}
	return strings.Join(strings.Fields(err.Error()), " ")
}

// Load is what all its clients share.
type Load struct {
	urls     string
	ledger   *Ledger
	inFlight int
	over     chan struct{}
	running  sync.WaitGroup
	sessions []stan.Conn
	// Of each subscription (by its name and channel) the sequences that came.
	mutex sync.Mutex
	seen  map[string]map[uint64]bool
}

func (l *Load) isOver() bool {
	select {
	case <-l.over:
		return true
	default:
		return false
	}
}

// connect makes a session on a connection of its own, whose end is written down.
func (l *Load) connect(name string) (stan.Conn, error) {
	lost := func(what string) func(*nats.Conn, error) {
		return func(_ *nats.Conn, err error) {
			if err != nil {
				l.ledger.write("lost %s %d %s: %s", name, time.Now().UnixNano(), what, words(err))
			}
		}
	}
	back := func(nc *nats.Conn) {
		l.ledger.write("back %s %d %s", name, time.Now().UnixNano(), nc.ConnectedAddr())
	}
	return connect(l.urls, name,
		stan.NatsOptions(nats.DontRandomize(), nats.ReconnectWait(50*time.Millisecond),
			nats.DisconnectErrHandler(lost("connection")), nats.ReconnectHandler(back)),
		stan.MaxPubAcksInflight(l.inFlight),
		stan.SetConnectionLostHandler(func(_ stan.Conn, err error) {
			l.ledger.write("lost %s %d session: %s", name, time.Now().UnixNano(), words(err))
		}))
}

// publish publishes with many in flight until it is told to stop, and waits for the end of each.
func (l *Load) publish(sc stan.Conn, name string) {
	var open sync.WaitGroup
	for number := 0; !l.isOver(); number++ {
		number, sent := number, time.Now().UnixNano()
		open.Add(1)
		end := func(err error) {
			l.ledger.write("ack %s %d %d %d %s", name, number, sent, time.Now().UnixNano(), words(err))
			open.Done()
		}
		channel := loadChannels[number%len(loadChannels)]
		data := []byte(fmt.Sprintf("%s:%08d", name, number))
		if _, err := sc.PublishAsync(channel, data, func(_ string, err error) { end(err) }); err != nil {
			end(err)
			// Without a connection the library refuses at once.
			time.Sleep(20 * time.Millisecond)
		}
	}
	open.Wait()
}

// listen subscribes to every channel, durably, and acknowledges by hand.
func (l *Load) listen(sc stan.Conn, name, queue string) error {
	for _, channel := range loadChannels {
		channel, key := channel, name+" "+channel
		l.mutex.Lock()
		if l.seen[key] == nil {
			l.seen[key] = map[uint64]bool{}
		}
		l.mutex.Unlock()
		take := func(m *stan.Msg) {
			// An ack that cannot be sent comes again as a redelivery, which is counted.
			_ = m.Ack()
			l.ledger.write("got %s %s %d %d %d %s", name, channel, m.Sequence, m.RedeliveryCount,
				time.Now().UnixNano(), m.Data)
			l.mutex.Lock()
			l.seen[key][m.Sequence] = true
			l.mutex.Unlock()
		}
		options := []stan.SubscriptionOption{stan.DurableName("dur"), stan.DeliverAllAvailable(), stan.SetManualAckMode(),
			stan.MaxInflight(loadUnackedMax)}
		var err error
		if queue == "" {
			_, err = sc.Subscribe(channel, take, options...)
		} else {
			_, err = sc.QueueSubscribe(channel, queue, take, options...)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

// pass connects, subscribes, publishes, leaves and closes, again and again.
func (l *Load) pass(name string) {
	for count := 0; !l.isOver(); count++ {
		began := time.Now().UnixNano()
		step := func(what string, err error) bool {
			now := time.Now().UnixNano()
			l.ledger.write("step %s %s %d %d %s", name, what, began, now, words(err))
			began = now
			return err == nil
		}
		sc, err := l.connect(name)
		if !step("connect", err) {
			time.Sleep(20 * time.Millisecond)
			continue
		}
		options := []stan.SubscriptionOption{stan.DeliverAllAvailable()}
		if count%2 == 1 {
			options = append(options, stan.DurableName("passing"))
		}
		sub, err := sc.Subscribe("passing", func(*stan.Msg) {}, options...)
		if step("subscribe", err) {
			step("publish", sc.Publish("passing", []byte("x")))
			if count%3 == 0 {
				step("close-subscription", sub.Close())
			} else {
				step("unsubscribe", sub.Unsubscribe())
			}
		}
		step("close", sc.Close())
	}
}

// hasAll says whether each durable and each queue group has seen all sequences up to these.
func (l *Load) hasAll(last []int) bool {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	for key, seen := range l.seen {
		for place, channel := range loadChannels {
			if strings.HasSuffix(key, " "+channel) && len(seen) < last[place] {
				return false
			}
		}
	}
	return true
}

// listenAll subscribes with a durable and with the members of a queue group.
func (l *Load) listenAll() error {
	names := []string{"go-durable"}
	for member := 0; member < loadMembers; member++ {
		names = append(names, fmt.Sprintf("go-member-%d", member))
	}
	for place, name := range names {
		sc, err := l.session(name)
		if err != nil {
			return err
		}
		listener, queue := "go-durable", ""
		if place > 0 {
			listener, queue = "go-queue", "go"
		}
		if err := l.listen(sc, listener, queue); err != nil {
			return err
		}
	}
	return nil
}

// session makes one that stays until the end.
func (l *Load) session(name string) (stan.Conn, error) {
	sc, err := l.connect(name)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	l.sessions = append(l.sessions, sc)
	return sc, nil
}

// begin starts all that publishes.
func (l *Load) begin() error {
	for publisher := 0; publisher < loadPublishers; publisher++ {
		name := fmt.Sprintf("go-publisher-%d", publisher)
		sc, err := l.session(name)
		if err != nil {
			return err
		}
		l.running.Add(1)
		go func() { l.publish(sc, name); l.running.Done() }()
	}
	for passer := 0; passer < loadPassers; passer++ {
		name := fmt.Sprintf("go-passer-%d", passer)
		l.running.Add(1)
		go func() { l.pass(name); l.running.Done() }()
	}
	return nil
}

// runLoad obeys the lines of the input: `begin` starts the publishers, `stop` ends the publishers, `end N N N N` waits until each
// listener has so many of each channel, `quit` ends everything as it is.
func runLoad(urls, path, inFlight string) error {
	count, err := strconv.Atoi(inFlight)
	if err != nil {
		return err
	}
	ledger, err := openLedger(path)
	if err != nil {
		return err
	}
	defer ledger.close()
	load := &Load{urls: urls, ledger: ledger, inFlight: count, over: make(chan struct{}), seen: map[string]map[uint64]bool{}}
	if err := load.listenAll(); err != nil {
		return err
	}
	fmt.Println("ready")
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		line := strings.Fields(lines.Text())
		switch {
		case len(line) == 1 && line[0] == "begin":
			if err := load.begin(); err != nil {
				return err
			}
			fmt.Println("begun")
		case len(line) == 1 && line[0] == "stop":
			close(load.over)
			load.running.Wait()
			fmt.Println("stopped")
		case len(line) == 1+len(loadChannels) && line[0] == "end":
			var last []int
			for _, word := range line[1:] {
				count, err := strconv.Atoi(word)
				if err != nil {
					return err
				}
				last = append(last, count)
			}
			for until := time.Now().Add(loadCatchUp); !load.hasAll(last) && time.Now().Before(until); {
				time.Sleep(5 * time.Millisecond)
			}
			for _, sc := range load.sessions {
				began := time.Now().UnixNano()
				err := sc.Close()
				ledger.write("step go-session close %d %d %s", began, time.Now().UnixNano(), words(err))
			}
			return nil
		default:
			return nil
		}
	}
	return lines.Err()
}
