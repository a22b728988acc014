package network

import (
	"fmt"
	"strings"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// hooked is a chain of somebody else that sees forwarded packets.
type hooked struct {
	family, table, chain string
	drops                bool     // by its policy
	beside               []string // all chains of its table
}

// remedy says who drops what containers send or get, and how to let it through; "" where nobody is suspected.
func remedy(chains []hooked, bridge string) string {
	for _, c := range chains {
		has := func(prefix string) bool {
			for _, b := range c.beside {
				if strings.HasPrefix(b, prefix) {
					return true
				}
			}
			return false
		}
		tool := "iptables"
		if c.family == "ip6" {
			tool = "ip6tables"
		}
		switch {
		case c.table == "firewalld":
			return fmt.Sprintf("firewalld drops it: firewall-cmd --permanent --zone=trusted --add-interface=%s && firewall-cmd --reload", bridge)
		case c.drops && has("ufw"):
			return fmt.Sprintf("ufw drops it: ufw route allow in on %s && ufw route allow out on %s", bridge, bridge)
		case c.drops && has("DOCKER-USER"):
			return fmt.Sprintf("Docker drops it: %s -I DOCKER-USER -i %s -j ACCEPT && %s -I DOCKER-USER -o %s -j ACCEPT, at every boot", tool, bridge, tool, bridge)
		case c.drops:
			return fmt.Sprintf("chain %s of table %s %s drops it: accept what comes from and goes to %s there", c.chain, c.family, c.table, bridge)
		}
	}
	return ""
}

// forwarding lists the chains of others that see forwarded packets. Rules of iptables-legacy cannot be seen this way.
func (b *Bridge) forwarding() ([]hooked, error) {
	conn, err := ruling()
	if err != nil {
		return nil, err
	}
	var all []hooked
	for _, f := range []struct {
		family nftables.TableFamily
		name   string
	}{{nftables.TableFamilyIPv4, "ip"}, {nftables.TableFamilyINet, "inet"}, {nftables.TableFamilyIPv6, "ip6"}} {
		chains, err := conn.ListChainsOfTableFamily(f.family)
		if err != nil {
			return nil, fmt.Errorf("list chains: %w", err)
		}
		beside := map[string][]string{}
		for _, c := range chains {
			beside[c.Table.Name] = append(beside[c.Table.Name], c.Name)
		}
		for _, c := range chains {
			if c.Hooknum == nil || *c.Hooknum != unix.NF_INET_FORWARD || c.Table.Name == b.names.table {
				continue
			}
			all = append(all, hooked{
				family: f.name, table: c.Table.Name, chain: c.Name, beside: beside[c.Table.Name],
				drops: c.Policy != nil && *c.Policy == nftables.ChainPolicyDrop,
			})
		}
	}
	return all, nil
}
