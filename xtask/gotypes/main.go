// Lists how the published Go packages of the Kubernetes API hold every JSON field: by value or behind a pointer, left out
// when empty or always written, and the name of its Go type. Clients can tell the difference: a zero behind a pointer is
// kept, a zero by value is dropped or always there, and decoding errors name the Go type.
//
//	go run main.go ROOT > ../data/go_types.txt        where ROOT/k8s.io/api@VERSION … are unpacked modules
//
// A line is TYPE, JSON name, flags, Go type, tab-separated. Flags: p pointer, e omitempty, z omitzero, i embedded inline.
package main

import (
	"bufio"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path"
	"path/filepath"
	"reflect"
	"sort"
	"strings"
)

// Module to the prefix of its types' OpenAPI names.
var modules = map[string]string{
	"api":                     "io.k8s.api",
	"apimachinery":            "io.k8s.apimachinery",
	"apiextensions-apiserver": "io.k8s.apiextensions-apiserver",
	"kube-aggregator":         "io.k8s.kube-aggregator",
}

func main() {
	out := bufio.NewWriter(os.Stdout)
	defer out.Flush()
	var lines []string
	for module, prefix := range modules {
		roots, _ := filepath.Glob(filepath.Join(os.Args[1], "k8s.io", module+"@*"))
		for _, root := range roots {
			_ = filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
				if err == nil && d.IsDir() {
					rel, _ := filepath.Rel(root, path)
					lines = append(lines, directory(path, prefix+"."+strings.ReplaceAll(rel, "/", "."))...)
				}
				return nil
			})
		}
	}
	sort.Strings(lines)
	last := ""
	for _, l := range lines {
		if l != last {
			fmt.Fprintln(out, l)
		}
		last = l
	}
}

func directory(path, name string) (lines []string) {
	files := token.NewFileSet()
	packages, _ := parser.ParseDir(files, path, func(i os.FileInfo) bool {
		n := i.Name()
		return !strings.HasSuffix(n, "_test.go") && !strings.HasPrefix(n, "zz_generated") && !strings.HasPrefix(n, "generated")
	}, parser.SkipObjectResolution)
	for _, p := range packages {
		for _, f := range p.Files {
			imported := imports(f)
			for _, d := range f.Decls {
				g, ok := d.(*ast.GenDecl)
				if !ok || g.Tok != token.TYPE {
					continue
				}
				for _, s := range g.Specs {
					t := s.(*ast.TypeSpec)
					if st, ok := t.Type.(*ast.StructType); ok {
						lines = append(lines, structure(name+"."+t.Name.Name, p.Name, imported, st)...)
					}
				}
			}
		}
	}
	return
}

// What a file calls the packages that it imports, and their own names: all of them are called as their directories.
func imports(f *ast.File) map[string]string {
	names := map[string]string{}
	for _, i := range f.Imports {
		own := path.Base(strings.Trim(i.Path.Value, `"`))
		called := own
		if i.Name != nil {
			called = i.Name.Name
		}
		names[called] = own
	}
	return names
}

func structure(name, pkg string, imported map[string]string, st *ast.StructType) (lines []string) {
	for _, f := range st.Fields.List {
		if f.Tag == nil {
			continue
		}
		tag, ok := reflect.StructTag(strings.Trim(f.Tag.Value, "`")).Lookup("json")
		if !ok {
			continue
		}
		parts := strings.Split(tag, ",")
		flags := ""
		typ := f.Type
		if s, ok := typ.(*ast.StarExpr); ok {
			flags, typ = "p", s.X
		}
		for _, o := range parts[1:] {
			switch o {
			case "omitempty":
				flags += "e"
			case "omitzero":
				flags += "z"
			}
		}
		if len(f.Names) == 0 && parts[0] == "" {
			flags += "i"
		}
		if flags == "" {
			flags = "-"
		}
		lines = append(lines, strings.Join([]string{name, parts[0], flags, spell(typ, pkg, imported)}, "\t"))
	}
	return
}

// The type as Go's reflection spells it: names of its own package carry the package's name, and so do those of others, whatever a file
// calls them.
func spell(e ast.Expr, pkg string, imported map[string]string) string {
	switch t := e.(type) {
	case *ast.Ident:
		if ast.IsExported(t.Name) {
			return pkg + "." + t.Name
		}
		switch t.Name {
		case "byte":
			return "uint8"
		}
		return t.Name
	case *ast.SelectorExpr:
		return imported[t.X.(*ast.Ident).Name] + "." + t.Sel.Name
	case *ast.StarExpr:
		return "*" + spell(t.X, pkg, imported)
	case *ast.ArrayType:
		return "[]" + spell(t.Elt, pkg, imported)
	case *ast.MapType:
		return "map[" + spell(t.Key, pkg, imported) + "]" + spell(t.Value, pkg, imported)
	case *ast.InterfaceType:
		return "interface {}"
	}
	return "?"
}
