//go:build tools

package oci

import (
	_ "github.com/opencontainers/runtime-tools/cgroups"
	_ "github.com/opencontainers/runtime-tools/validate"
	_ "github.com/opencontainers/runtime-tools/validation/util"
)
