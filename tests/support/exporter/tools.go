//go:build tools

// Package exporter names the exporter that the field's cases run, so that its version is locked.
package exporter

import _ "github.com/nats-io/prometheus-nats-exporter"
