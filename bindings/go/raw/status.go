// SPDX-License-Identifier: Apache-2.0

package raw

import "fmt"

// Error makes a status an error of its own, for errors.Is.
func (v Status) Error() string { return "dsv4mx: " + v.String() }

// unknown names a value that this version of the header does not have.
func unknown(kind string, value int32) string { return fmt.Sprintf("%s(%d)", kind, value) }
