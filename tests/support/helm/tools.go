//go:build tools

// Package helm names what the checks of packaging use, so that its versions are locked.
package helm

import (
	_ "github.com/compose-spec/compose-go/v2/schema"
	_ "helm.sh/helm/v3/cmd/helm"
)
