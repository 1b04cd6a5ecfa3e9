// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"testing"
)

// Example runs the program as it is; what it prints is random, so it only has to end well.
func TestMinimal(t *testing.T) {
	if os.Getenv("DSV4MX_LIBRARY") == "" {
		t.Skip("needs DSV4MX_LIBRARY")
	}
	main()
}
