// Command shell does one thing by name: `cat`, `both` (a line to each output), `exit N`, `size` (of its terminal, now and at each change),
// `serve PORT`, `whoami PORT` (answers with its host's name), `fetch URL`, `show FILE`, `count` (a line every 100 ms), `wait`; and as clients
// ask a pod's tar to copy: `cf - -C FOLDER PATH`, `xf - -C FOLDER`.
package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"
	"unsafe"
)

func main() {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGWINCH)
	switch os.Args[1] {
	case "cat":
		io.Copy(os.Stdout, os.Stdin)
	case "both":
		fmt.Println("to stdout")
		fmt.Fprintln(os.Stderr, "to stderr")
	case "exit":
		code, _ := strconv.Atoi(os.Args[2])
		os.Exit(code)
	case "size":
		for {
			size()
			if <-signals == syscall.SIGTERM {
				return
			}
		}
	case "serve":
		http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, "%s %s\n", r.Method, r.URL.Path) })
		go http.ListenAndServe(":"+os.Args[2], nil)
		wait(signals)
	case "whoami":
		name, _ := os.Hostname()
		http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, name) })
		go http.ListenAndServe(":"+os.Args[2], nil)
		fmt.Println("serving as", name)
		wait(signals)
	case "fetch":
		client := http.Client{Timeout: 5 * time.Second}
		answer, err := client.Get(os.Args[2])
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		io.Copy(os.Stdout, answer.Body)
	case "show":
		text, err := os.ReadFile(os.Args[2])
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Stdout.Write(text)
	case "count":
		for i := 0; ; i++ {
			fmt.Println("line", i)
			time.Sleep(100 * time.Millisecond)
		}
	case "cf":
		ends(fromHere(os.Args[4], os.Args[5], os.Stdout))
	case "xf":
		ends(toHere(os.Args[4], os.Stdin))
	case "wait":
		wait(signals)
	}
}

func ends(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func wait(signals chan os.Signal) {
	for <-signals != syscall.SIGTERM {
	}
}

func size() {
	var size struct{ rows, columns, x, y uint16 }
	syscall.Syscall(syscall.SYS_IOCTL, 0, syscall.TIOCGWINSZ, uintptr(unsafe.Pointer(&size)))
	fmt.Println(size.rows, size.columns)
}
