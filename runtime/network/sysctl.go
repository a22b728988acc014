package network

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

const sysctls = "/proc/sys/net"

// sysctl reads a value, such as "ipv4/ip_forward"; "" where the kernel does not have it.
func sysctl(name string) (string, error) {
	data, err := os.ReadFile(filepath.Join(sysctls, name))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return strings.TrimSpace(string(data)), err
}

// setSysctl changes a value where it is another one.
func setSysctl(name, value string, done *repairs) error {
	have, err := sysctl(name)
	if err != nil || have == value {
		return err
	}
	done.add("set net/%s from %s to %s", name, have, value)
	f, err := os.OpenFile(filepath.Join(sysctls, name), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	if _, err := f.WriteString(value); err != nil {
		return errors.Join(fmt.Errorf("set %s to %s: %w", name, value, err), f.Close())
	}
	return f.Close()
}

// hasIPv6 reports whether this server's network namespace uses IPv6.
func hasIPv6() bool {
	disabled, err := sysctl("ipv6/conf/all/disable_ipv6")
	return err == nil && disabled == "0"
}

// allowForwarding turns on what containers need to reach anything but each other, and the bridge's own settings.
func allowForwarding(bridge string, ipv6 bool, done *repairs) error {
	if err := setSysctl("ipv4/ip_forward", "1", done); err != nil {
		return err
	}
	// So that a connection to 127.0.0.1 may be sent to a container; the table drops what else this would let through.
	if err := setSysctl("ipv4/conf/"+bridge+"/route_localnet", "1", done); err != nil {
		return err
	}
	if !ipv6 {
		return nil
	}
	if err := forwardIPv6(done); err != nil {
		return err
	}
	for _, name := range []string{"accept_ra", "accept_redirects"} {
		if err := setSysctl("ipv6/conf/"+bridge+"/"+name, "0", done); err != nil {
			return err
		}
	}
	return nil
}

// forwardIPv6 turns forwarding on without losing addresses and routes that a router advertises: a server that forwards
// listens to routers only where accept_ra is 2.
func forwardIPv6(done *repairs) error {
	if on, err := sysctl("ipv6/conf/all/forwarding"); err != nil || on == "1" {
		return err
	}
	interfaces, err := os.ReadDir(filepath.Join(sysctls, "ipv6/conf"))
	if err != nil {
		return err
	}
	for _, i := range interfaces {
		name := "ipv6/conf/" + i.Name() + "/accept_ra"
		if value, err := sysctl(name); i.Name() == "all" || err != nil || value != "1" {
			continue
		}
		if err := setSysctl(name, "2", done); err != nil {
			return err
		}
	}
	return setSysctl("ipv6/conf/all/forwarding", "1", done)
}
