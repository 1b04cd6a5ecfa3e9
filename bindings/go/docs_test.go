// SPDX-License-Identifier: Apache-2.0

package dsv4mx

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"strings"
	"testing"
)

// TestDocs finds exported names without documentation: types, functions, methods, constants, variables, fields.
func TestDocs(t *testing.T) {
	names := 0
	files := token.NewFileSet()
	bad := func(name *ast.Ident, docs ...*ast.CommentGroup) {
		if !name.IsExported() {
			return
		}
		names++
		for _, doc := range docs {
			if strings.TrimSpace(doc.Text()) != "" {
				return
			}
		}
		t.Errorf("%s: %s has no documentation", files.Position(name.Pos()), name.Name)
	}
	for _, pattern := range []string{"*.go", "raw/*.go"} {
		for _, path := range must[[]string](t)(filepath.Glob(pattern)) {
			if strings.HasSuffix(path, "_test.go") {
				continue
			}
			file := must[*ast.File](t)(parser.ParseFile(files, path, nil, parser.ParseComments))
			for _, declaration := range file.Decls {
				documented(declaration, bad)
			}
		}
	}
	if names < 500 {
		t.Errorf("only %d names were looked at", names)
	}
}

func documented(declaration ast.Decl, bad func(name *ast.Ident, docs ...*ast.CommentGroup)) {
	switch d := declaration.(type) {
	case *ast.FuncDecl:
		bad(d.Name, d.Doc)
	case *ast.GenDecl:
		for _, spec := range d.Specs {
			switch s := spec.(type) {
			case *ast.ValueSpec:
				for _, name := range s.Names {
					// A value of an enum may be its name alone, under the text of its group.
					bad(name, s.Doc, s.Comment, d.Doc)
				}
			case *ast.TypeSpec:
				bad(s.Name, s.Doc, d.Doc)
				fields := &ast.FieldList{}
				switch body := s.Type.(type) {
				case *ast.StructType:
					fields = body.Fields
				case *ast.InterfaceType:
					fields = body.Methods
				}
				for _, field := range fields.List {
					for _, name := range field.Names {
						if s.Name.IsExported() {
							bad(name, field.Doc, field.Comment, nil)
						}
					}
				}
			}
		}
	}
}
