// Command objects asks the original what the rules of a schema say of objects: a case and an answer are a JSON object a line.
//
//	go run ./objects < cases.jsonl > answers.jsonl
//
// A case has a schema (`openAPIV3Schema`), an object, and an old one if the object is changed.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"os"
	"sort"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	structuralschema "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	schemacel "k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel/model"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	"k8s.io/apiserver/pkg/cel/common"
	"k8s.io/apiserver/pkg/warning"
)

type question struct {
	Schema json.RawMessage `json:"schema"`
	Object json.RawMessage `json:"object"`
	Old    json.RawMessage `json:"old"`
}

type answer struct {
	Errors   []string `json:"errors"`
	Warnings []string `json:"warnings"`
}

type warnings struct{ texts []string }

func (w *warnings) AddWarning(_, text string) { w.texts = append(w.texts, text) }

func check(err error) {
	if err != nil {
		panic(err)
	}
}

func read(raw json.RawMessage) any {
	if raw == nil {
		return nil
	}
	var out any
	check(utiljson.Unmarshal(raw, &out))
	return out
}

func ask(q question) answer {
	props := &apiextensionsv1.JSONSchemaProps{}
	check(json.Unmarshal(q.Schema, props))
	internal := &apiextensions.JSONSchemaProps{}
	check(apiextensionsv1.Convert_v1_JSONSchemaProps_To_apiextensions_JSONSchemaProps(props, internal, nil))
	schema, err := structuralschema.NewStructural(internal)
	check(err)
	validator := schemacel.NewValidator(schema, true, celconfig.PerCallLimit)
	object, old := read(q.Object), read(q.Old)
	options := []schemacel.Option{}
	if old != nil {
		options = append(options, schemacel.WithRatcheting(common.NewCorrelatedObject(object, old, &model.Structural{Structural: schema})))
	}
	said := &warnings{}
	ctx := warning.WithWarningRecorder(context.Background(), said)
	errors, _ := validator.Validate(ctx, nil, schema, object, old, celconfig.RuntimeCELCostBudget, options...)
	out := answer{Errors: []string{}, Warnings: []string{}}
	for _, err := range errors {
		out.Errors = append(out.Errors, err.Error())
	}
	out.Warnings = append(out.Warnings, said.texts...)
	// The original goes through fields in an order of the moment.
	sort.Strings(out.Errors)
	sort.Strings(out.Warnings)
	return out
}

func main() {
	in := bufio.NewScanner(os.Stdin)
	in.Buffer(nil, 16<<20)
	out := json.NewEncoder(os.Stdout)
	out.SetEscapeHTML(false)
	for in.Scan() {
		var q question
		check(json.Unmarshal(in.Bytes(), &q))
		check(out.Encode(ask(q)))
	}
	check(in.Err())
}
