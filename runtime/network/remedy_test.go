package network

import (
	"strings"
	"testing"
)

func TestRemedyNamesWhoDrops(t *testing.T) {
	forward := func(family, table string, drops bool, beside ...string) hooked {
		return hooked{family: family, table: table, chain: "FORWARD", drops: drops, beside: beside}
	}
	for name, c := range map[string]struct {
		chains []hooked
		want   string
	}{
		"nobody":                   {nil, ""},
		"a chain that accepts":     {[]hooked{forward("ip", "filter", false, "DOCKER-USER")}, ""},
		"Docker":                   {[]hooked{forward("ip", "filter", true, "FORWARD", "DOCKER-USER")}, "iptables -I DOCKER-USER -i rc-x -j ACCEPT && iptables -I DOCKER-USER -o rc-x"},
		"Docker by IPv6":           {[]hooked{forward("ip6", "filter", true, "DOCKER-USER")}, "ip6tables -I DOCKER-USER"},
		"ufw":                      {[]hooked{forward("ip", "filter", true, "FORWARD", "ufw-before-forward")}, "ufw route allow in on rc-x && ufw route allow out on rc-x"},
		"firewalld":                {[]hooked{forward("inet", "firewalld", false, "filter_FORWARD")}, "firewall-cmd --permanent --zone=trusted --add-interface=rc-x && firewall-cmd --reload"},
		"somebody":                 {[]hooked{forward("inet", "mine", true)}, "chain FORWARD of table inet mine drops it"},
		"the one of two that does": {[]hooked{forward("ip", "nat", false), forward("ip", "mine", true)}, "chain FORWARD of table ip mine"},
	} {
		if got := remedy(c.chains, "rc-x"); !strings.Contains(got, c.want) || (c.want == "") != (got == "") {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}
