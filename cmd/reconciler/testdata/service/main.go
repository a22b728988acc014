// A service as it should be: it answers /ready, says its version to who asks, echoes lines on another port, and ends when told
// to without letting down whom it answers.
package main

import (
	"context"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	echo, err := net.Listen("tcp", ":8081")
	if err != nil {
		log.Fatal(err)
	}
	go func() {
		for {
			conn, err := echo.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(conn, conn) }()
		}
	}()
	http.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, os.Getenv("VERSION")) })
	server := http.Server{Addr: ":8080"}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	go func() { log.Print(server.ListenAndServe()) }()
	<-ctx.Done()
	stop()
	_ = server.Shutdown(context.Background())
}
