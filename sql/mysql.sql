-- The tables of a streaming store in MySQL and MariaDB. Every statement can be run again.

CREATE TABLE IF NOT EXISTS ServerInfo (uniquerow INT DEFAULT 1, id VARCHAR(1024), proto BLOB, version INTEGER, PRIMARY KEY (uniquerow));
CREATE TABLE IF NOT EXISTS Clients (id VARCHAR(1024), hbinbox TEXT, proto BLOB, PRIMARY KEY (id(256)));
CREATE TABLE IF NOT EXISTS Channels (id INTEGER, name VARCHAR(1024) NOT NULL, maxseq BIGINT UNSIGNED DEFAULT 0, maxmsgs INTEGER DEFAULT 0, maxbytes BIGINT DEFAULT 0, maxage BIGINT DEFAULT 0, deleted BOOL DEFAULT FALSE, PRIMARY KEY (id), INDEX Idx_ChannelsName (name(256)));
CREATE TABLE IF NOT EXISTS Messages (id INTEGER, seq BIGINT UNSIGNED, timestamp BIGINT, size INTEGER, data MEDIUMBLOB, CONSTRAINT PK_MsgKey PRIMARY KEY (id, seq), INDEX Idx_MsgsTimestamp (timestamp));
CREATE TABLE IF NOT EXISTS Subscriptions (id INTEGER, subid BIGINT UNSIGNED, lastsent BIGINT UNSIGNED DEFAULT 0, proto BLOB, deleted BOOL DEFAULT FALSE, CONSTRAINT PK_SubKey PRIMARY KEY (id, subid));
CREATE TABLE IF NOT EXISTS SubsPending (subid BIGINT UNSIGNED, `row` BIGINT UNSIGNED, seq BIGINT UNSIGNED DEFAULT 0, lastsent BIGINT UNSIGNED DEFAULT 0, pending BLOB, acks BLOB, CONSTRAINT PK_MsgPendingKey PRIMARY KEY (subid, `row`), INDEX Idx_SubsPendingSeq (seq));
CREATE TABLE IF NOT EXISTS StoreLock (id VARCHAR(30), tick BIGINT UNSIGNED DEFAULT 0);

-- What the Go server does not know and leaves alone: the fencing number, its holder, sums, counts of deliveries.
CREATE TABLE IF NOT EXISTS StanbyEpoch (uniquerow INTEGER DEFAULT 1, epoch BIGINT, lockid VARCHAR(30), owner VARCHAR(64), PRIMARY KEY (uniquerow));
CREATE TABLE IF NOT EXISTS StanbyHolder (uniquerow INTEGER DEFAULT 1, epoch BIGINT, counter BIGINT, released INTEGER, record TEXT, PRIMARY KEY (uniquerow));
CREATE TABLE IF NOT EXISTS StanbyTotals (id INTEGER, firstseq BIGINT, lastseq BIGINT, messages BIGINT, bytes BIGINT, PRIMARY KEY (id));
CREATE TABLE IF NOT EXISTS StanbyDeliveries (id INTEGER, reader VARCHAR(32) CHARACTER SET ascii, seq BIGINT, stamp BIGINT, deliveries BIGINT, PRIMARY KEY (id, reader, seq));

-- Used in a Galera cluster only: a row for each writer, which each of its transactions changes.
CREATE TABLE IF NOT EXISTS StanbyFence (worker INTEGER, epoch BIGINT, counter BIGINT, PRIMARY KEY (worker));
