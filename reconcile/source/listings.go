package source

import (
	"sync"

	"github.com/go-git/go-git/v5/plumbing"
)

// maxListed is how many entries of directories are kept from one commit to the next: some 5 MB of them.
const maxListed = 50_000

// listings keeps the directories of the last two commits that were read, by the hash of what is in them: of a commit that
// changes one file few are read. Nothing in it goes stale, and nothing in it is ever written.
type listings struct {
	mu          sync.Mutex
	top         plumbing.Hash // of the commit that is read
	now, before map[plumbing.Hash][]node
	count       int // entries of now
}

// turn begins a commit: what only the one before the last has goes.
func (l *listings) turn(top plumbing.Hash) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.now == nil || l.top != top {
		l.top, l.now, l.before, l.count = top, make(map[plumbing.Hash][]node), l.now, 0
	}
}

func (l *listings) find(dir plumbing.Hash) (nodes []node, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if nodes, ok = l.now[dir]; !ok {
		if nodes, ok = l.before[dir]; ok {
			l.keep(dir, nodes)
		}
	}
	return nodes, ok
}

func (l *listings) add(dir plumbing.Hash, nodes []node) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.keep(dir, nodes)
}

func (l *listings) keep(dir plumbing.Hash, nodes []node) {
	if size := 1 + len(nodes); l.count+size <= maxListed {
		l.now[dir] = nodes
		l.count += size
	}
}
