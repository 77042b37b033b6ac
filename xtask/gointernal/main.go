// Lists how the original's internal types hold their fields: the types into which it reads objects before it validates them, and
// which its messages show as JSON. Their fields have Go's names, their own order, and nothing is left out when it is empty.
//
//	go run main.go ROOT TYPE… > ../../crates/kinds/data/internal_types.txt    where ROOT/k8s.io/kubernetes@VERSION, api@VERSION and
//	                                                                          apimachinery@VERSION are unpacked
//
// Told are the types named (core.PodSpec) and what they are made of. A line is `TYPE` of a struct, followed by a line ` GO JSON FORM` for each
// field: the name that is shown, the name in the published API (- where there is none), and how it is held. A field that is left out
// when empty has a ? before its form; one of an embedded struct stands where the struct is, metadata's as metadata/NAME. Forms: *X pointer, []X slice, {}X map, s text, i number,
// b truth, y bytes, t time, q quantity, n number or text, a anything, or a struct's name.
package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"reflect"
	"sort"
	"strings"
)

type named struct {
	pack string
	expr ast.Expr
}

var (
	root     = os.Args[1]
	internal = map[string]named{}             // core.PodSpec
	outer    = map[string]map[string]string{} // core.PodSpec → Go name → JSON name
	told     = map[string][]string{}
)

// Short package names of imports that are not called as their folder is.
var aliases = map[string]string{"api": "core", "v1": "metav1", "meta": "metav1"}

func main() {
	read("kubernetes", "pkg/apis/*", func(folder string) string { return filepath.Base(folder) }, declare)
	read("apimachinery", "pkg/apis/meta/v1", func(string) string { return "metav1" }, declare)
	read("api", "*/v*", func(folder string) string { return filepath.Base(filepath.Dir(folder)) }, publish)
	for _, name := range os.Args[2:] {
		tell(name)
	}
	names := make([]string, 0, len(told))
	for name := range told {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		fmt.Println(name)
		for _, line := range told[name] {
			fmt.Println(" " + line)
		}
	}
}

func read(module, folders string, pack func(string) string, each func(pack string, spec *ast.TypeSpec)) {
	found, _ := filepath.Glob(filepath.Join(root, "k8s.io", module+"@*", folders))
	sort.Slice(found, func(a, b int) bool { return rank(found[a]) < rank(found[b]) })
	for _, folder := range found {
		files, _ := filepath.Glob(filepath.Join(folder, "*.go"))
		for _, path := range files {
			if strings.HasSuffix(path, "_test.go") || strings.Contains(filepath.Base(path), "generated") {
				continue
			}
			file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
			if err != nil {
				panic(err)
			}
			for _, declared := range file.Decls {
				if group, ok := declared.(*ast.GenDecl); ok {
					for _, spec := range group.Specs {
						if spec, ok := spec.(*ast.TypeSpec); ok {
							each(pack(folder), spec)
						}
					}
				}
			}
		}
	}
}

// Versions in which a field may be published under its name: the last one read counts.
func rank(folder string) string {
	version := filepath.Base(folder)
	switch {
	case strings.Contains(version, "alpha"):
		return "0" + version
	case strings.Contains(version, "beta"):
		return "1" + version
	}
	return "2" + version
}

func declare(pack string, spec *ast.TypeSpec) {
	internal[pack+"."+spec.Name.Name] = named{pack, spec.Type}
}

func publish(pack string, spec *ast.TypeSpec) {
	fields, ok := spec.Type.(*ast.StructType)
	if !ok {
		return
	}
	key := pack + "." + spec.Name.Name
	if outer[key] == nil {
		outer[key] = map[string]string{}
	}
	for _, field := range fields.Fields.List {
		tag, _ := tagOf(field)
		for _, name := range field.Names {
			outer[key][name.Name] = tag
		}
	}
}

func tagOf(field *ast.Field) (string, bool) {
	if field.Tag == nil {
		return "", false
	}
	parts := strings.Split(reflect.StructTag(strings.Trim(field.Tag.Value, "`")).Get("json"), ",")
	omit := false
	for _, part := range parts[1:] {
		omit = omit || part == "omitempty" || part == "omitzero"
	}
	return parts[0], omit
}

func tell(name string) {
	if _, done := told[name]; done {
		return
	}
	told[name] = nil
	fields, ok := internal[name].expr.(*ast.StructType)
	if !ok {
		panic("no struct: " + name)
	}
	told[name] = lines(name, internal[name].pack, fields)
}

func lines(name, pack string, fields *ast.StructType) []string {
	var out []string
	for _, declared := range fields.Fields.List {
		tag, omit := tagOf(declared)
		if len(declared.Names) == 0 && tag == "" {
			embedded := qualified(pack, declared.Type)
			if embedded == "metav1.TypeMeta" {
				continue // not set in what is within another object
			}
			inner, ok := internal[embedded].expr.(*ast.StructType)
			if !ok {
				panic(name + " embeds " + embedded)
			}
			for _, line := range lines(embedded, internal[embedded].pack, inner) {
				if embedded == "metav1.ObjectMeta" {
					line = strings.Replace(line, " ", " metadata/", 1)
				}
				out = append(out, line)
			}
			continue
		}
		for _, field := range declared.Names {
			shown, json := field.Name, outer[name][field.Name]
			if tag != "" {
				shown = tag
			}
			if pack == "metav1" {
				json = tag
			}
			if json == "" {
				json = guess(name, shown)
			}
			form := formOf(pack, declared.Type)
			if omit {
				form = "?" + form
			}
			out = append(out, shown+" "+json+" "+form)
		}
	}
	return out
}

// The published name of a field whose struct is published under another name, or not at all.
func guess(name, field string) string {
	for _, json := range outer[name] {
		if strings.EqualFold(json, field) {
			return json
		}
	}
	if outer[name] != nil {
		fmt.Fprintln(os.Stderr, "not published:", name, field)
		return "-"
	}
	at := 0
	for at < len(field) && field[at] >= 'A' && field[at] <= 'Z' {
		at++
	}
	if at > 1 && at < len(field) {
		at--
	}
	fmt.Fprintln(os.Stderr, "guessed:", name, field)
	return strings.ToLower(field[:at]) + field[at:]
}

func qualified(pack string, expr ast.Expr) string {
	switch expr := expr.(type) {
	case *ast.Ident:
		return pack + "." + expr.Name
	case *ast.SelectorExpr:
		from := expr.X.(*ast.Ident).Name
		if alias, ok := aliases[from]; ok {
			from = alias
		}
		return from + "." + expr.Sel.Name
	}
	panic(fmt.Sprintf("%T", expr))
}

func formOf(pack string, expr ast.Expr) string {
	switch expr := expr.(type) {
	case *ast.StarExpr:
		return "*" + formOf(pack, expr.X)
	case *ast.ArrayType:
		if of, ok := expr.Elt.(*ast.Ident); ok && of.Name == "byte" {
			return "y"
		}
		return "[]" + formOf(pack, expr.Elt)
	case *ast.MapType:
		return "{}" + formOf(pack, expr.Value)
	case *ast.Ident:
		switch expr.Name {
		case "string":
			return "s"
		case "bool":
			return "b"
		case "int", "int32", "int64", "uint32", "uint64", "float64":
			return "i"
		}
	case *ast.SelectorExpr:
		switch qualified(pack, expr) {
		case "metav1.Time", "metav1.MicroTime":
			return "t"
		case "resource.Quantity":
			return "q"
		case "intstr.IntOrString":
			return "n"
		case "runtime.RawExtension", "runtime.Object", "runtime.Unknown", "metav1.FieldsV1":
			return "a"
		case "types.UID", "types.NodeName", "types.NamespacedName":
			return "s"
		case "metav1.Duration":
			return "s"
		}
	}
	name := qualified(pack, expr)
	if pack == "metav1" && (name == "metav1.Time" || name == "metav1.MicroTime") {
		return "t"
	}
	if name == "metav1.FieldsV1" {
		return "a"
	}
	def, ok := internal[name]
	if !ok {
		panic("unknown type " + name)
	}
	if _, ok := def.expr.(*ast.StructType); ok {
		tell(name)
		return name
	}
	return formOf(def.pack, def.expr)
}
