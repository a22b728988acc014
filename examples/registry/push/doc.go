// Command push makes a small image of this server's busybox and pushes it, so that the demo has a registry with something
// in it. It owns nothing else; no other package may need it. Start reading at main.go.
package main
