package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/validation"
)

// definition is a line of the input: the schema of a definition, and the one that it had before, if it is changed.
type definition struct {
	Schema json.RawMessage `json:"schema"`
	Old    json.RawMessage `json:"old,omitempty"`
}

func definitionOf(schema json.RawMessage) *apiextensions.CustomResourceDefinition {
	props := &apiextensionsv1.JSONSchemaProps{}
	check(json.Unmarshal(schema, props))
	yes := true
	out := &apiextensionsv1.CustomResourceDefinition{}
	out.Name = "things.example.com"
	out.ResourceVersion = "1"
	out.Spec = apiextensionsv1.CustomResourceDefinitionSpec{
		Group: "example.com",
		Scope: apiextensionsv1.NamespaceScoped,
		Names: apiextensionsv1.CustomResourceDefinitionNames{Plural: "things", Singular: "thing", Kind: "Thing", ListKind: "ThingList"},
		Versions: []apiextensionsv1.CustomResourceDefinitionVersion{{
			Name: "v1", Served: true, Storage: true,
			Schema: &apiextensionsv1.CustomResourceValidation{OpenAPIV3Schema: props},
		}},
		Conversion:            &apiextensionsv1.CustomResourceConversion{Strategy: apiextensionsv1.NoneConverter},
		PreserveUnknownFields: !yes,
	}
	out.Status.StoredVersions = []string{"v1"}
	internal := &apiextensions.CustomResourceDefinition{}
	check(apiextensionsv1.Convert_v1_CustomResourceDefinition_To_apiextensions_CustomResourceDefinition(out, internal, nil))
	return internal
}

// definitions prints the errors of each definition of the input, one JSON list a line.
func definitions() {
	in := bufio.NewScanner(os.Stdin)
	in.Buffer(nil, 16<<20)
	out := json.NewEncoder(os.Stdout)
	out.SetEscapeHTML(false)
	for in.Scan() {
		if strings.HasPrefix(in.Text(), "#") || in.Text() == "" {
			continue
		}
		given := definition{}
		check(json.Unmarshal(in.Bytes(), &given))
		said := []string{}
		crd := definitionOf(given.Schema)
		if given.Old == nil {
			for _, err := range validation.ValidateCustomResourceDefinition(context.Background(), crd) {
				said = append(said, fmt.Sprint(err))
			}
		} else {
			for _, err := range validation.ValidateCustomResourceDefinitionUpdate(context.Background(), crd, definitionOf(given.Old)) {
				said = append(said, fmt.Sprint(err))
			}
		}
		check(out.Encode(said))
	}
	check(in.Err())
}
