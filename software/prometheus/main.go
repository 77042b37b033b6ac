// Command prometheus answers what the operator's probes and its config reloader ask, and shows its configuration on /config.
package main

import (
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"sync/atomic"
	"syscall"
)

func main() {
	var file string
	for _, flag := range os.Args {
		if value, ok := strings.CutPrefix(flag, "--config.file="); ok {
			file = value
		}
	}
	var reloads atomic.Int32
	http.HandleFunc("/-/ready", func(http.ResponseWriter, *http.Request) {})
	http.HandleFunc("/-/healthy", func(http.ResponseWriter, *http.Request) {})
	http.HandleFunc("/-/reload", func(http.ResponseWriter, *http.Request) { reloads.Add(1) })
	http.HandleFunc("/config", func(w http.ResponseWriter, _ *http.Request) {
		text, err := os.ReadFile(file)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		fmt.Fprintf(w, "# reloads: %d\n%s", reloads.Load(), text)
	})
	go func() { panic(http.ListenAndServe(":9090", nil)) }()
	end := make(chan os.Signal, 1)
	signal.Notify(end, syscall.SIGTERM)
	<-end
}
