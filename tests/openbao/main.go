// OpenBao as the end-to-end tests run it: the program of the project's own module, and nothing beside it.
// A plain `go install` of it is refused, because its go.mod has replace lines; a module that depends on it is not.
package main

import (
	"os"

	"github.com/openbao/openbao/command"
)

func main() {
	os.Exit(command.Run(os.Args[1:]))
}
