package ctl

import (
	"errors"
	"fmt"
	"strings"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/token"
)

// mapping is the list of keys of one kind of YAML mapping, read into a T.
type mapping[T any] struct {
	what  string // "a virtual server", for messages
	keys  []configKey[T]
	later []string // keys of releases to come, refused as such
}

// configKey is one key of a mapping: what the documentation says about it, and how it is read.
type configKey[T any] struct {
	doc  keyDoc
	text func(s scalar, into *T) error                                 // reads a scalar, or
	tree func(d *decoder, n ast.Node, at string, into *T)              // reads a list or a mapping
	keys func(visit func(path string, section describer), path string) // describes what is below a tree
	show func(from *T, at string, emit func(Setting))                  // the value, or all values of a tree
}

// keyDoc is what is known about a key besides its code.
type keyDoc struct {
	name      string
	kind      string // type, in words
	def       string // default as it would be written; it is read like a written value
	otherwise string // the default in words, where it is not a constant
	limits    string // range, or the words allowed
	example   string
	text      string // what it does
	required  bool
	number    bool   // quotes are refused
	later     string // words of releases to come
}

// describer is a mapping without its type.
type describer interface {
	describe() (what string, keys []keyDoc)
	walk(visit func(path string, section describer), path string)
}

func (m *mapping[T]) describe() (string, []keyDoc) {
	docs := make([]keyDoc, len(m.keys))
	for i, k := range m.keys {
		docs[i] = k.doc
	}
	return m.what, docs
}

func (m *mapping[T]) walk(visit func(path string, section describer), path string) {
	visit(path, m)
	for _, k := range m.keys {
		if k.keys != nil {
			k.keys(visit, joinKey(path, k.doc.name))
		}
	}
}

func (m *mapping[T]) find(name string) int {
	for i := range m.keys {
		if m.keys[i].doc.name == name {
			return i
		}
	}
	return -1
}

// scalar is one value as text.
type scalar struct {
	text   string
	quoted bool
}

func joinKey(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

// decodeMapping reads n into *into by the list of keys. Keys that are not written get their defaults.
func decodeMapping[T any](d *decoder, m *mapping[T], n ast.Node, at string, into *T) {
	given := make([]ast.Node, len(m.keys))
	if n = d.resolve(n); !isEmpty(n) {
		if _, known := d.where[at]; !known {
			d.where[at] = placeOf(n)
		}
		if !collect(d, m, n, at, given) {
			return // that keys are missing as well says nothing more
		}
	}
	for i := range m.keys {
		k := &m.keys[i]
		name := joinKey(at, k.doc.name)
		switch v := given[i]; {
		case v == nil && k.doc.required:
			d.add(position{}, at, wrong("%s is missing", k.doc.name))
		case v == nil && k.tree != nil:
			k.tree(d, nil, name, into)
		case v == nil && k.doc.def != "":
			if err := k.text(scalar{text: k.doc.def}, into); err != nil {
				panic("default of " + name + ": " + err.Error()) // the table is wrong, not the file
			}
		case v == nil:
		case k.tree != nil:
			k.tree(d, v, name, into)
		default:
			decodeScalar(d, k, v, name, into)
		}
	}
}

// collect sorts the values of n by key. Merged mappings (<<) only give what the mapping itself has not.
// It tells whether n is a mapping.
func collect[T any](d *decoder, m *mapping[T], n ast.Node, at string, given []ast.Node) bool {
	var entries []*ast.MappingValueNode
	switch v := n.(type) {
	case *ast.MappingNode:
		entries = v.Values
	case *ast.MappingValueNode:
		entries = []*ast.MappingValueNode{v}
	default:
		d.add(placeOf(n), at, wrong("want the keys of %s, found %s", m.what, kindOf(n)))
		return false
	}
	var merges []ast.Node
	own := make([]position, len(given))
	for _, e := range entries {
		if d.spent(e, at) {
			return false
		}
		d.values++
		if e.Key.IsMergeKey() {
			merges = append(merges, e.Value)
			continue
		}
		name, place := keyName(e.Key), placeOf(e.Key)
		i := m.find(name)
		switch {
		case i < 0:
			d.add(place, joinKey(at, printable(name)), d.unknown(m, name))
		case own[i] != position{}:
			d.add(place, joinKey(at, name), wrong("given twice, first on line %d", own[i].line))
		case given[i] != nil: // by a mapping that merges this one
		default:
			own[i], given[i] = place, e.Value
			d.where[joinKey(at, name)] = place
		}
	}
	for _, v := range merges {
		v = d.resolve(v)
		list, ok := v.(*ast.SequenceNode)
		if !ok {
			collect(d, m, v, at, given)
			continue
		}
		for _, v := range list.Values {
			collect(d, m, d.resolve(v), at, given)
		}
	}
	return true
}

func keyName(n ast.Node) string {
	for {
		switch v := n.(type) {
		case *ast.AnchorNode:
			n = v.Value
		case *ast.MappingKeyNode:
			n = v.Value
		case *ast.TagNode:
			n = v.Value
		default:
			return nameOf(n)
		}
	}
}

// printable is a key that may hold anything, as part of a path.
func printable(name string) string {
	if name == "" || len(name) > 64 || strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return fmt.Sprintf("%q", shorten(name))
	}
	return name
}

// unknown says what is known about a key that m does not have.
func (d *decoder) unknown(m interface {
	describer
	comesLater(name string) bool
}, name string) error {
	what, docs := m.describe()
	if m.comesLater(name) {
		return wrong("%s is not in this release", name)
	}
	names := make([]string, len(docs))
	for i := range docs {
		names[i] = docs[i].name
	}
	w := d.suggest(wrong("%s has no such key", what), name, names)
	if w.hint != "" || len(d.errs) >= maxSuggestions {
		return w
	}
	// The right key in the wrong place is as frequent as a wrong key.
	var places []string
	d.root.walk(func(path string, section describer) {
		_, docs := section.describe()
		for _, doc := range docs {
			if doc.name == name {
				places = append(places, joinKey(path, name))
			}
		}
	}, "")
	if len(places) == 1 {
		return w.orUse("there is %s", places[0])
	}
	return w.orUse("keys are %s", strings.Join(names, ", "))
}

func (m *mapping[T]) comesLater(name string) bool {
	for _, l := range m.later {
		if l == plainName(name) || l+"s" == plainName(name) {
			return true
		}
	}
	return false
}

// decodeScalar reads one value. The place of the key becomes that of the value, where errors about it point.
func decodeScalar[T any](d *decoder, k *configKey[T], n ast.Node, at string, into *T) {
	alias, used := n.(*ast.AliasNode)
	n = d.resolve(n)
	if isEmpty(n) {
		d.add(position{}, at, wrong("no value; want %s", k.doc.want()))
		return
	}
	d.where[at] = placeOf(n)
	if used {
		d.where[at] = placeOf(alias)
	}
	s, ok := scalarOf(n)
	if !ok {
		w := wrong("want %s, found %s", k.doc.want(), kindOf(n))
		if list, flow := n.(*ast.SequenceNode); flow && list.IsFlowStyle && strings.Contains(k.doc.kind, "address") {
			w.orUse("an IPv6 address in brackets is written in quotes")
		}
		d.add(position{}, at, w)
		return
	}
	if k.doc.number && s.quoted {
		d.add(position{}, at, wrong("want %s, found text in quotes", k.doc.want()).orUse("remove the quotes"))
		return
	}
	eachError(k.text(s, into), func(err error) {
		p := d.where[at]
		var w *problem
		if _, plain := n.(*ast.StringNode); plain && !used && errors.As(err, &w) && w.skip > 0 {
			p.column += w.skip
			if s.quoted {
				p.column++
			}
		}
		d.add(p, at, err)
	})
}

// want is the type of the key with its range, for messages.
func (k *keyDoc) want() string {
	if k.limits == "" {
		return k.kind
	}
	return k.kind + ": " + k.limits
}

// scalarOf is the text of a scalar as it is written, so that a name may look like a number.
func scalarOf(n ast.Node) (scalar, bool) {
	if isEmpty(n) {
		return scalar{}, false
	}
	t := n.GetToken()
	switch n.(type) {
	case *ast.StringNode:
		return scalar{t.Value, t.Type == token.SingleQuoteType || t.Type == token.DoubleQuoteType}, true
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.InfinityNode, *ast.NanNode:
		return scalar{text: t.Value}, true
	}
	return scalar{}, false
}

// nestedKey is a key whose value is a mapping.
func nestedKey[T, V any](doc keyDoc, m *mapping[V], field func(*T) *V) configKey[T] {
	doc.kind = "mapping"
	return configKey[T]{
		doc:  doc,
		tree: func(d *decoder, n ast.Node, at string, into *T) { decodeMapping(d, m, n, at, field(into)) },
		keys: m.walk,
		show: func(from *T, at string, emit func(Setting)) { m.show(field(from), at, emit) },
	}
}

// listKey is a key whose value is a list of mappings.
func listKey[T, V any](doc keyDoc, m *mapping[V], field func(*T) *[]V) configKey[T] {
	doc.kind = "list"
	return configKey[T]{
		doc: doc,
		tree: func(d *decoder, n ast.Node, at string, into *T) {
			eachItem(d, &doc, n, at, func(item ast.Node, at string) {
				var v V
				decodeMapping(d, m, item, at, &v)
				*field(into) = append(*field(into), v)
			})
		},
		keys: func(visit func(string, describer), path string) { m.walk(visit, path+"[]") },
		show: func(from *T, at string, emit func(Setting)) {
			list := *field(from)
			for i := range list {
				m.show(&list[i], at+"["+m.identity(&list[i])+"]", emit)
			}
		},
	}
}

// eachItem calls read for every item of a list.
func eachItem(d *decoder, doc *keyDoc, n ast.Node, at string, read func(item ast.Node, at string)) {
	if n = d.resolve(n); isEmpty(n) {
		if doc.required {
			d.add(position{}, at, wrong("the list is empty; want at least one entry"))
		}
		return
	}
	seq, ok := n.(*ast.SequenceNode)
	if !ok {
		d.add(placeOf(n), at, wrong("want a %s, found %s", doc.kind, kindOf(n)))
		return
	}
	if doc.required && len(seq.Values) == 0 {
		d.add(position{}, at, wrong("the list is empty; want at least one entry"))
	}
	for i, item := range seq.Values {
		if d.spent(item, at) {
			return
		}
		name := fmt.Sprintf("%s[%d]", at, i)
		if p := placeOf(item); p != (position{}) {
			d.where[name] = p
		}
		read(item, name)
	}
}
