-- The tables of a streaming store in SQLite. Every statement can be run again.

CREATE TABLE IF NOT EXISTS ServerInfo (uniquerow INTEGER DEFAULT 1, id TEXT, proto BLOB, version INTEGER, PRIMARY KEY (uniquerow));
CREATE TABLE IF NOT EXISTS Clients (id TEXT, hbinbox TEXT, proto BLOB, PRIMARY KEY (id));
CREATE TABLE IF NOT EXISTS Channels (id INTEGER, name TEXT NOT NULL, maxseq BIGINT DEFAULT 0, maxmsgs INTEGER DEFAULT 0, maxbytes BIGINT DEFAULT 0, maxage BIGINT DEFAULT 0, deleted BOOL DEFAULT FALSE, PRIMARY KEY (id));
CREATE TABLE IF NOT EXISTS Messages (id INTEGER, seq BIGINT, timestamp BIGINT, size INTEGER, data BLOB, PRIMARY KEY (id, seq)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS Subscriptions (id INTEGER, subid BIGINT, lastsent BIGINT DEFAULT 0, proto BLOB, deleted BOOL DEFAULT FALSE, PRIMARY KEY (id, subid));
CREATE TABLE IF NOT EXISTS SubsPending (subid BIGINT, `row` BIGINT, seq BIGINT DEFAULT 0, lastsent BIGINT DEFAULT 0, pending BLOB, acks BLOB, PRIMARY KEY (subid, `row`));
CREATE TABLE IF NOT EXISTS StoreLock (id VARCHAR(30), tick BIGINT DEFAULT 0);

-- What the Go server does not know and leaves alone: the fencing number, its holder, sums, counts of deliveries.
CREATE TABLE IF NOT EXISTS StanbyEpoch (uniquerow INTEGER DEFAULT 1, epoch BIGINT, lockid VARCHAR(30), owner VARCHAR(64), PRIMARY KEY (uniquerow));
CREATE TABLE IF NOT EXISTS StanbyHolder (uniquerow INTEGER DEFAULT 1, epoch BIGINT, counter BIGINT, released INTEGER, record TEXT, PRIMARY KEY (uniquerow));
CREATE TABLE IF NOT EXISTS StanbyTotals (id INTEGER, firstseq BIGINT, lastseq BIGINT, messages BIGINT, bytes BIGINT, PRIMARY KEY (id));
CREATE TABLE IF NOT EXISTS StanbyDeliveries (id INTEGER, reader VARCHAR(32), seq BIGINT, stamp BIGINT, deliveries BIGINT, PRIMARY KEY (id, reader, seq));
