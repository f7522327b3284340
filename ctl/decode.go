package ctl

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// Limits on the text. A file of ten thousand virtual servers and four thousand members has about 2 MB.
const (
	maxFileSize = 16 << 20
	maxDepth    = 32      // levels of brackets and columns; the schema needs 10
	maxKeys     = 1000    // of one mapping; the schema has 16
	maxValues   = 2 << 20 // values read, aliases expanded: a small text may otherwise ask for billions
)

// Load reads and checks a configuration file. Its error is an Errors unless the file could not be read.
func Load(path string) (*File, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	defer file.Close()
	// One byte more than allowed tells a file that is too large, and a pipe or device is read no further.
	data, err := io.ReadAll(io.LimitReader(file, maxFileSize+1))
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	return Parse(path, data)
}

// Parse checks the text of a configuration file; name stands in its errors. The error is an Errors with every
// problem found.
func Parse(name string, data []byte) (*File, error) {
	d := &decoder{collector: collector{name: name, where: map[string]position{}}, root: &fileKeys}
	body := d.tree(data)
	if len(d.errs) > 0 {
		return nil, d.result()
	}
	f := &File{Name: name, where: d.where}
	decodeMapping(d, &fileKeys, body, "", f)
	f.complete()
	validate(&d.collector, f)
	if err := d.result(); err != nil {
		return nil, err
	}
	byPlace(d.warnings)
	for _, w := range d.warnings {
		f.warnings = append(f.warnings, w.Error())
	}
	return f, nil
}

// decoder turns the syntax tree into a File.
type decoder struct {
	collector
	root    describer // of all keys
	targets map[*ast.AliasNode]ast.Node
	values  int // read so far
}

// tree parses the text down to the one node that holds everything. It is nil if there were problems.
func (d *decoder) tree(data []byte) ast.Node {
	if len(data) > maxFileSize {
		d.add(position{}, "", wrong("the file is larger than %d MiB", maxFileSize>>20))
		return nil
	}
	data = bytes.TrimPrefix(data, []byte("\ufeff"))
	text := string(data)
	d.lines = strings.Split(text, "\n")
	if !d.readable(text) {
		return nil
	}
	tokens := lexer.Tokenize(text)
	if p, w := tooMuch(tokens); w != nil {
		d.add(p, "", w)
		return nil
	}
	file, err := parser.Parse(tokens, 0, parser.AllowDuplicateMapKey()) // duplicates: see decodeMapping
	if err != nil {
		d.syntax(err)
		return nil
	}
	var body ast.Node
	for i, doc := range file.Docs {
		if directive, ok := doc.Body.(*ast.DirectiveNode); ok {
			d.add(placeOf(directive), "", wrong("YAML directives (%%) are not supported"))
			return nil
		}
		if i > 0 {
			p := placeOf(doc.Body)
			if doc.Start != nil {
				p = placeOfToken(doc.Start)
			}
			d.add(p, "", wrong("a second YAML document; the configuration is one document"))
			return nil
		}
		body = doc.Body
	}
	if isEmpty(body) {
		d.add(position{1, 1}, "", wrong("the configuration is empty").orUse("at least ports is needed"))
		return nil
	}
	d.targets = map[*ast.AliasNode]ast.Node{}
	d.anchors(body, map[string]ast.Node{})
	return body
}

// readable refuses bytes that no YAML file may have.
func (d *decoder) readable(text string) bool {
	line, start := 1, 0
	for i, r := range text {
		broken := false
		if r == utf8.RuneError {
			_, size := utf8.DecodeRuneInString(text[i:])
			broken = size == 1
		}
		switch {
		case r == '\n':
			line, start = line+1, i+1
			continue
		case broken:
			d.lines[line-1] = strings.ToValidUTF8(d.lines[line-1], "?")
			d.add(position{line, utf8.RuneCountInString(text[start:i]) + 1}, "", wrong("the file is not UTF-8 text"))
			return false
		case r < ' ' && r != '\t' && r != '\r':
			d.add(position{line, utf8.RuneCountInString(text[start:i]) + 1}, "", wrong("control character %U", r))
			return false
		}
	}
	return true
}

// tooMuch finds the token with which brackets and block columns nest too deep, or a mapping has more keys than
// any may have: the parser's recursion is as deep as the text, and its time grows with the square of the keys.
func tooMuch(tokens token.Tokens) (position, *problem) {
	const bracket = -1
	type level struct{ column, keys int }
	levels := []level{{}}
	for _, t := range tokens {
		top := &levels[len(levels)-1]
		switch t.Type {
		case token.SequenceStartType, token.MappingStartType:
			levels = append(levels, level{column: bracket})
		case token.SequenceEndType, token.MappingEndType:
			if top.column == bracket {
				levels = levels[:len(levels)-1]
			}
		case token.SequenceEntryType, token.MappingKeyType, token.MappingValueType, token.AnchorType, token.TagType:
			if top.column != bracket {
				column := t.Position.Column
				if t.Type == token.MappingValueType && t.Prev != nil && t.Prev.Position.Line == t.Position.Line {
					column = t.Prev.Position.Column // of the key
				}
				for levels[len(levels)-1].column > column {
					levels = levels[:len(levels)-1]
				}
				if levels[len(levels)-1].column < column {
					levels = append(levels, level{column: column})
				}
				top = &levels[len(levels)-1]
			}
			if t.Type == token.MappingValueType {
				top.keys++
			}
			if top.keys > maxKeys {
				return placeOfToken(t), wrong("more than %d keys in one mapping", maxKeys)
			}
		}
		if len(levels) > maxDepth+1 {
			return placeOfToken(t), wrong("nested deeper than %d levels", maxDepth)
		}
	}
	return position{}, nil
}

// syntax notes an error of the YAML parser, with a hint for the mistakes that are easily made in this file.
func (d *decoder) syntax(err error) {
	w, p := wrong("%s", err.Error()), position{1, 1}
	var at interface {
		GetToken() *token.Token
		GetMessage() string
	}
	if errors.As(err, &at) {
		w.message = at.GetMessage()
		if t := at.GetToken(); t != nil && t.Position != nil {
			p = placeOfToken(t)
		}
	}
	if p.line >= 1 && p.line <= len(d.lines) {
		line := d.lines[p.line-1]
		before, _, _ := strings.Cut(line, strings.TrimLeft(line, " \t"))
		switch {
		case strings.Contains(before, "\t"):
			w = wrong("a tab in the indentation").orUse("YAML is indented with spaces")
		case strings.Contains(line, "]:"):
			w.orUse(`an IPv6 address with a port is written in quotes: "[2001:db8::1]:80"`)
		case strings.Contains(line, "::"):
			w.orUse(`an IPv6 address that ends with a colon is written in quotes: "2001:db8::"`)
		}
	}
	d.add(p, "", w)
}

// anchors finds what each alias stands for: the last anchor of that name before it. An anchor counts from its
// end, so nothing contains itself.
func (d *decoder) anchors(n ast.Node, named map[string]ast.Node) {
	switch n := n.(type) {
	case *ast.MappingNode:
		for _, v := range n.Values {
			d.anchors(v, named)
		}
	case *ast.MappingValueNode:
		d.anchors(n.Key, named)
		d.anchors(n.Value, named)
	case *ast.MappingKeyNode:
		d.anchors(n.Value, named)
	case *ast.SequenceNode:
		for _, v := range n.Values {
			d.anchors(v, named)
		}
	case *ast.TagNode:
		d.anchors(n.Value, named)
	case *ast.AnchorNode:
		d.anchors(n.Value, named)
		named[nameOf(n.Name)] = n.Value
	case *ast.AliasNode:
		target, ok := named[nameOf(n.Value)]
		if !ok {
			d.add(placeOf(n), "", wrong("no anchor &%s before this alias", nameOf(n.Value)))
		}
		d.targets[n] = target
	}
}

func nameOf(n ast.Node) string {
	if isEmpty(n) || n.GetToken() == nil {
		return ""
	}
	return n.GetToken().Value
}

// resolve follows anchors and aliases to the node that holds the value, and counts it.
func (d *decoder) resolve(n ast.Node) ast.Node {
	d.values++
	for {
		switch v := n.(type) {
		case *ast.AnchorNode:
			n = v.Value
		case *ast.AliasNode:
			n = d.targets[v]
		default:
			return n
		}
	}
}

// spent tells that too much was read, and notes it once.
func (d *decoder) spent(n ast.Node, at string) bool {
	if d.values <= maxValues {
		return false
	}
	if d.values < 2*maxValues {
		d.values = 2 * maxValues
		d.add(placeOf(n), at, wrong("more than %d values, aliases counted where they are used", maxValues))
	}
	return true
}

// isEmpty tells that there is no value: nothing written, or null.
func isEmpty(n ast.Node) bool {
	if n == nil {
		return true
	}
	switch n.(type) {
	case *ast.NullNode, *ast.CommentGroupNode:
		return true
	}
	return false
}

func placeOf(n ast.Node) position {
	switch v := n.(type) {
	case nil:
		return position{}
	case *ast.MappingNode:
		// A block mapping's own token is the colon after its first key.
		if !v.IsFlowStyle && len(v.Values) > 0 {
			return placeOf(v.Values[0].Key)
		}
	case *ast.MappingValueNode:
		return placeOf(v.Key)
	}
	return placeOfToken(n.GetToken())
}

func placeOfToken(t *token.Token) position {
	if t == nil || t.Position == nil {
		return position{}
	}
	return position{max(1, t.Position.Line), max(1, t.Position.Column)}
}

// kindOf names what was written where something else was wanted.
func kindOf(n ast.Node) string {
	switch n := n.(type) {
	case *ast.MappingNode, *ast.MappingValueNode:
		return "a mapping"
	case *ast.SequenceNode:
		return "a list"
	case *ast.TagNode:
		return "a YAML tag"
	case nil, *ast.NullNode:
		return "nothing"
	case *ast.LiteralNode:
		return "a block of text"
	default:
		return fmt.Sprintf("%q", shorten(nameOf(n)))
	}
}

// shorten keeps messages to a line.
func shorten(s string) string {
	if len(s) <= 64 {
		return s
	}
	return strings.ToValidUTF8(s[:61], "") + "..."
}
