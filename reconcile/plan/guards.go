package plan

import (
	"fmt"
	"slices"
	"strings"
)

// Reasons of a Block.
const (
	BlockUnknownNode = "UnknownNode"
	BlockNodeRenamed = "NodeRenamed"
	BlockMovedBranch = "MovedBranch"
	BlockEmptying    = "Emptying"
)

// AllowRemove is the word of a Reconciler-Allow trailer that lets a commit remove what Emptying would hold.
const AllowRemove = "remove"

// minRemoved is from how many removals on the share of them counts.
const minRemoved = 3

// guard says why the desired set may not be applied; nil: it may. Which node this is can only be settled by the
// repository, so nothing approves a node that it does not know.
func (c *computation) guard() *Block {
	d := c.in.Desired
	c.findRenames()
	approve := fmt.Sprintf("`reconciler approve %s`", d.Revision.Short())
	if !d.NodeKnown {
		return &Block{Reason: BlockUnknownNode, Message: fmt.Sprintf(
			"commit %s has Node manifests and none for node %s: add one, or start the agent with --node and a name that has one",
			d.Revision.Short(), d.Node.Name)}
	}
	if c.in.Approved[d.Revision.Commit] {
		return nil
	}
	if c.in.KeptNode != "" && c.in.KeptNode != d.Node.Name {
		return &Block{Reason: BlockNodeRenamed, Message: fmt.Sprintf(
			"this server was node %s and is now started as %s: if that is meant, %s; else start the agent with --node %s",
			c.in.KeptNode, d.Node.Name, approve, c.in.KeptNode)}
	}
	if c.in.Ancestry != AncestryForward {
		what := "does not follow the commit that was applied last: the branch was moved"
		if c.in.Ancestry == AncestryUnknown {
			what = "is of a history that does not have the commit that was applied last"
		}
		return &Block{Reason: BlockMovedBranch, Message: fmt.Sprintf(
			"commit %s %s: if that is meant, %s on this node", d.Revision.Short(), what, approve)}
	}
	if slices.Contains(d.Revision.Allow, AllowRemove) {
		return nil
	}
	return c.guardEmptying(approve)
}

// guardEmptying blocks a commit that takes away too much of what is here: everything, or three and more than the
// allowed share. What was not in force, such as the rest of a removal that was let through before, does not count.
func (c *computation) guardEmptying(approve string) *Block {
	if len(c.gone) == 0 && len(c.runs) == 0 {
		return nil // as nearly always
	}
	total := 0
	var removed []string
	for name := range c.owners() {
		if c.in.Accepted != nil && c.accepted(name) == nil {
			continue
		}
		total++
		if _, renamed := c.renames.to[name]; c.wanted(name) == nil && !renamed {
			removed = append(removed, name.Short())
		}
	}
	n := len(removed)
	if n == 0 || n < total && (n < minRemoved || n*100 <= c.in.Policy.MaxRemove*total) {
		return nil
	}
	slices.Sort(removed)
	const shown = 5
	list := strings.Join(removed[:min(n, shown)], ", ")
	if n > shown {
		list += fmt.Sprintf(" and %d more", n-shown)
	}
	return &Block{Reason: BlockEmptying, Message: fmt.Sprintf(
		"commit %s would remove %s (%s): if that is meant, %s, or say \"Reconciler-Allow: %s\" in the commit message",
		c.in.Desired.Revision.Short(), howMany(n, total), list, approve, AllowRemove)}
}

func howMany(n, total int) string {
	switch {
	case total == 1:
		return "the only container of this node"
	case n == total:
		return fmt.Sprintf("all %d containers of this node", total)
	default:
		return fmt.Sprintf("%d of the %d containers of this node", n, total)
	}
}
