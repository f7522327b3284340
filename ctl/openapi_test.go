package ctl

import (
	"bytes"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
)

// TestOpenAPI holds openapi.json to the routes and views; a loader of OpenAPI finds nothing wrong with it.
func TestOpenAPI(t *testing.T) {
	want := describeAPI(t, (&Server{}).routes())
	if updating() {
		if err := os.WriteFile("openapi.json", want, 0o644); err != nil {
			t.Fatal(err)
		}
	} else if !bytes.Equal(want, openAPI) {
		t.Fatal("openapi.json is out of date: go test ./ctl -run OpenAPI -update")
	}
	doc, err := openapi3.NewLoader().LoadFromData(want)
	if err != nil {
		t.Fatal(err)
	}
	if err := doc.Validate(t.Context()); err != nil {
		t.Fatal(err)
	}
	for path, item := range doc.Paths.Map() {
		for method, op := range item.Operations() {
			if op.Summary == "" || op.Extensions["x-role"] == nil {
				t.Errorf("%s %s has no summary or role", method, path)
			}
		}
	}
	for name, s := range doc.Components.Schemas {
		for field, f := range s.Value.Properties {
			if f.Value != nil && f.Value.Type == nil {
				t.Errorf("%s.%s has no type", name, field)
			}
		}
	}
}

// object is a JSON object in the order of its keys.
type object = map[string]any

// describeAPI makes the description of routes: paths from the list, schemas from the answers' types, and texts from the comments
// in their source.
func describeAPI(t *testing.T, routes []apiRoute) []byte {
	t.Helper()
	d := &apiDescriber{t: t, schemas: object{}, comments: map[string]map[string]map[string]string{}}
	fails := func(text string) object {
		return object{"description": text, "content": object{"application/json": object{"schema": object{"$ref": "#/components/schemas/Error"}}}}
	}
	d.schemas["Error"] = object{"type": "object", "additionalProperties": false, "required": []string{"error"},
		"properties": object{"error": object{"type": "string", "description": "what is wrong, and what to do"}}}
	paths := object{}
	for _, r := range routes {
		content := object{}
		switch {
		case r.answer == nil:
			content[r.media] = object{"schema": object{"type": "object"}}
		case r.media != "":
			content[r.media] = object{"schema": d.schema(reflect.TypeOf(r.answer))}
		default:
			content["application/json"] = object{"schema": d.schema(reflect.TypeOf(r.answer))}
		}
		if r.watch {
			content["application/x-ndjson"] = object{"schema": d.schema(reflect.TypeOf(r.answer))}
		}
		op := object{
			"operationId": operationID(r), "summary": r.summary, "x-role": r.role,
			"responses": object{
				"200": object{"description": "what was asked for", "content": content},
				"400": fails("a parameter is wrong, or there is a body"), "403": fails("another role is needed"),
				"413": fails("the body is too large"), "429": fails("the client asks for too much; Retry-After says when to come again"),
				"503":     fails("the engine is busy or does not answer; Retry-After may say when to come again"),
				"default": fails("anything else"),
			},
		}
		var params []object
		for _, p := range append(slices.Clip(r.params), watchParam) {
			if p.name == watchParam.name && !r.watch {
				continue
			}
			params = append(params, object{"name": p.name, "in": "query", "required": p.required, "description": p.text, "schema": p.schema()})
		}
		if params != nil {
			op["parameters"] = params
		}
		if paths[r.path] == nil {
			paths[r.path] = object{}
		}
		paths[r.path].(object)[strings.ToLower(r.method)] = op
	}
	doc := object{
		"openapi": "3.0.3",
		"info": object{"title": "sluice", "version": "1", "license": object{"name": "see LICENSE"},
			"description": "The control API of sluice, over the unix socket control.socket and, with mutual TLS, over TCP at control.listen. What is under /v1 " +
				"stays compatible: fields and routes may be added. x-role is the least that may: read-only or admin. Every answer that is not 200 is an Error. " +
				"Generated; the routes and views of the source are what it is made from."},
		"servers": []object{{"url": "http://sluice"}}, "paths": paths, "components": object{"schemas": d.schemas},
	}
	b, err := json.MarshalIndent(doc, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	return append(b, '\n')
}

func operationID(r apiRoute) string {
	id := strings.ToLower(r.method)
	for _, w := range strings.FieldsFunc(strings.TrimPrefix(r.path, "/v1"), func(c rune) bool { return c == '/' || c == '.' }) {
		id += strings.ToUpper(w[:1]) + w[1:]
	}
	return id
}

func (p param) schema() object {
	switch p.kind {
	case wordParam:
		return object{"type": "string", "enum": p.words}
	case numberParam:
		return object{"type": "integer", "minimum": p.low, "maximum": p.high}
	case flagParam:
		return object{"type": "boolean"}
	case durationParam:
		return object{"type": "string", "example": "500ms", "pattern": `^([0-9]+(\.[0-9]+)?(ns|us|µs|ms|s|m|h))+$`}
	}
	return object{"type": "string", "maxLength": maxText}
}

// apiDescriber collects schemas.
type apiDescriber struct {
	t        *testing.T
	schemas  object
	comments map[string]map[string]map[string]string // of fields, by package, type and name; the type's own under ""
}

func (d *apiDescriber) schema(typ reflect.Type) object {
	switch typ.Kind() {
	case reflect.Pointer:
		return d.schema(typ.Elem())
	case reflect.Slice:
		return object{"type": "array", "items": d.schema(typ.Elem())}
	case reflect.Map:
		return object{"type": "object", "additionalProperties": d.schema(typ.Elem())}
	case reflect.String:
		return object{"type": "string"}
	case reflect.Bool:
		return object{"type": "boolean"}
	case reflect.Float32, reflect.Float64:
		return object{"type": "number"}
	case reflect.Int, reflect.Int32, reflect.Int64:
		return object{"type": "integer"}
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return object{"type": "integer", "minimum": 0}
	case reflect.Struct:
		name := strings.TrimSuffix(typ.Name(), "View")
		ref := object{"$ref": "#/components/schemas/" + name}
		if _, known := d.schemas[name]; known {
			return ref
		}
		d.schemas[name] = nil // for one that holds itself
		s := object{"type": "object", "additionalProperties": false, "properties": object{}}
		if text := d.comment(typ, ""); text != "" {
			s["description"] = text
		}
		d.fields(typ, s)
		d.schemas[name] = s
		return ref
	}
	d.t.Fatalf("no schema for %s", typ)
	return nil
}

// fields adds the fields of a struct, those of embedded ones among them.
func (d *apiDescriber) fields(typ reflect.Type, s object) {
	for i := range typ.NumField() {
		f := typ.Field(i)
		tag, given := f.Tag.Lookup("json")
		name, opts, _ := strings.Cut(tag, ",")
		switch {
		case f.Anonymous && !given:
			d.fields(f.Type, s)
			continue
		case name == "-" || !f.IsExported():
			continue
		case name == "":
			d.t.Fatalf("%s.%s has no name in JSON", typ, f.Name)
		}
		schema := d.schema(f.Type)
		if text := d.comment(typ, f.Name); text != "" {
			if schema["$ref"] != nil {
				schema = object{"allOf": []object{schema}, "type": "object"}
			}
			schema["description"] = text
		}
		s["properties"].(object)[name] = schema
		if !strings.Contains(opts, "omitempty") {
			required, _ := s["required"].([]string)
			s["required"] = append(required, name)
		}
	}
}

// comment is what the source says about a field, or about the type.
func (d *apiDescriber) comment(typ reflect.Type, field string) string {
	pkg := typ.PkgPath()
	if d.comments[pkg] == nil {
		d.comments[pkg] = comments(d.t, filepath.Join("..", strings.TrimPrefix(pkg, "sluice/")))
	}
	return d.comments[pkg][typ.Name()][field]
}

func comments(t *testing.T, dir string) map[string]map[string]string {
	t.Helper()
	out := map[string]map[string]string{}
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil || len(files) == 0 {
		t.Fatal(dir, err)
	}
	for _, name := range files {
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		for _, decl := range f.Decls {
			g, ok := decl.(*ast.GenDecl)
			if !ok {
				continue
			}
			for _, spec := range g.Specs {
				s, ok := spec.(*ast.TypeSpec)
				if !ok {
					continue
				}
				st, ok := s.Type.(*ast.StructType)
				if !ok {
					continue
				}
				texts := map[string]string{"": oneLine(g.Doc.Text())}
				for _, field := range st.Fields.List {
					for _, n := range field.Names {
						texts[n.Name] = oneLine(field.Doc.Text() + " " + field.Comment.Text())
					}
				}
				out[s.Name.Name] = texts
			}
		}
	}
	return out
}

func oneLine(text string) string { return strings.Join(strings.Fields(text), " ") }

// apiSchema is the description as a validator reads it.
func apiSchema(t testing.TB) *openapi3.T {
	t.Helper()
	doc, err := openapi3.NewLoader().LoadFromData(openAPI)
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

// checkAnswer validates an answer against the description: status, media type, and JSON without unknown fields.
func checkAnswer(doc *openapi3.T, method, path string, status int, media string, body []byte) error {
	item := doc.Paths.Find(path)
	if item == nil || item.GetOperation(method) == nil {
		return fmt.Errorf("%s %s is not described", method, path)
	}
	op := item.GetOperation(method)
	resp := op.Responses.Status(status)
	if resp == nil {
		if status == 200 {
			return fmt.Errorf("%s %s: status %d is not described", method, path, status)
		}
		resp = op.Responses.Default()
	}
	content := resp.Value.Content.Get(media)
	if content == nil {
		return fmt.Errorf("%s %s %d: media type %q is not described", method, path, status, media)
	}
	if !strings.Contains(media, "json") {
		return nil
	}
	for dec := json.NewDecoder(bytes.NewReader(body)); dec.More(); {
		var v any
		if err := dec.Decode(&v); err != nil {
			return fmt.Errorf("%s %s %d: %w in %.200s", method, path, status, err, body)
		}
		if err := content.Schema.Value.VisitJSON(v, openapi3.MultiErrors()); err != nil {
			return fmt.Errorf("%s %s %d: %w", method, path, status, err)
		}
	}
	return nil
}
