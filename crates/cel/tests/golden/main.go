// Command golden asks the original's CEL what it makes of expressions and prints the answers, one JSON object a line.
//
//	go run . < cases.txt > answers.jsonl
//	go run . definitions < definitions.jsonl > said.jsonl   (of the crate kinds: the rules of definitions)
//
// A line of the input is a directive or an expression (with "⏎" for an end of line):
//
//	@reset                 no variables, the environment of new expressions
//	@env new|stored        which environment
//	@var NAME TYPE [JSON]  a variable with its value
//	@schema JSON           `self` and `oldSelf` by a structural schema, as rules of definitions have them
//	@root                  … which is a resource's root
//	@value JSON            the value of `self`
//	@old JSON              the value of `oldSelf`
//	@admission WORD…       what policies have, with params, authorizer, patches; there are no estimates
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"sort"
	"strings"
	"time"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/checker"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
	"github.com/google/cel-go/common/types/traits"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	structuralschema "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	schemacel "k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel/model"
	"k8s.io/apimachinery/pkg/util/version"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	plugincel "k8s.io/apiserver/pkg/admission/plugin/cel"
	apiservercel "k8s.io/apiserver/pkg/cel"
	"k8s.io/apiserver/pkg/cel/environment"
	"k8s.io/apiserver/pkg/cel/library"
)

type answer struct {
	Expr  string `json:"expr"`
	Type  string `json:"type,omitempty"`
	Error string `json:"error,omitempty"`
	Min   string `json:"min,omitempty"`
	Max   string `json:"max,omitempty"`
	Value string `json:"value,omitempty"`
	Fail  string `json:"fail,omitempty"`
	Cost  string `json:"cost,omitempty"`
}

type state struct {
	stored bool
	vars   []variable
	schema *structuralschema.Structural
	decl   *apiservercel.DeclType
	self   any
	old    any
	root   bool
	policy *plugincel.OptionalVariableDeclarations
}

// policyExpression is an expression of a policy that may be of any type.
type policyExpression string

func (e policyExpression) GetExpression() string { return string(e) }

func (policyExpression) ReturnTypes() []*cel.Type { return []*cel.Type{cel.AnyType} }

type variable struct {
	name, ty string
	value    any
}

type rules struct{}

func (rules) Authorize(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
	if a.GetVerb() == "get" {
		return authorizer.DecisionAllow, "reads are free", nil
	}
	if a.GetVerb() == "fail" {
		return authorizer.DecisionNoOpinion, "", fmt.Errorf("it failed")
	}
	return authorizer.DecisionDeny, "", nil
}

func typeOf(text string) *cel.Type {
	inside := func(prefix string) (string, bool) {
		if strings.HasPrefix(text, prefix+"(") && strings.HasSuffix(text, ")") {
			return text[len(prefix)+1 : len(text)-1], true
		}
		return "", false
	}
	if in, ok := inside("list"); ok {
		return cel.ListType(typeOf(in))
	}
	if in, ok := inside("optional"); ok {
		return cel.OptionalType(typeOf(in))
	}
	if in, ok := inside("map"); ok {
		key, value, _ := strings.Cut(in, ",")
		return cel.MapType(typeOf(key), typeOf(value))
	}
	switch text {
	case "dyn":
		return cel.DynType
	case "bool":
		return cel.BoolType
	case "int":
		return cel.IntType
	case "uint":
		return cel.UintType
	case "double":
		return cel.DoubleType
	case "string":
		return cel.StringType
	case "bytes":
		return cel.BytesType
	case "timestamp":
		return cel.TimestampType
	case "duration":
		return cel.DurationType
	case "null":
		return cel.NullType
	case "kubernetes.authorization.Authorizer":
		return library.AuthorizerType
	}
	panic("no such type: " + text)
}

func valueOf(ty string, value any) any {
	switch ty {
	case "kubernetes.authorization.Authorizer":
		return library.NewAuthorizerVal(&user.DefaultInfo{Name: "jane"}, rules{})
	case "timestamp":
		t, err := time.Parse(time.RFC3339Nano, value.(string))
		check(err)
		return types.Timestamp{Time: t}
	case "duration":
		d, err := time.ParseDuration(value.(string))
		check(err)
		return types.Duration{Duration: d}
	case "bytes":
		return []byte(value.(string))
	}
	return typed(ty, value)
}

func typed(ty string, value any) any {
	switch v := value.(type) {
	case json.Number:
		switch {
		case strings.HasPrefix(ty, "uint"):
			n, err := v.Int64()
			check(err)
			return uint64(n)
		case strings.HasPrefix(ty, "double"):
			f, err := v.Float64()
			check(err)
			return f
		}
		if n, err := v.Int64(); err == nil {
			return n
		}
		f, err := v.Float64()
		check(err)
		return f
	case []any:
		out := []any{}
		for _, e := range v {
			out = append(out, typed(strings.TrimPrefix(ty, "list("), e))
		}
		return out
	case map[string]any:
		out := map[string]any{}
		for k, e := range v {
			_, inner, _ := strings.Cut(ty, ",")
			out[k] = typed(inner, e)
		}
		return out
	}
	return value
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}

func parse(text string) any {
	d := json.NewDecoder(strings.NewReader(text))
	d.UseNumber()
	var out any
	check(d.Decode(&out))
	return out
}

type sizes struct{ root *apiservercel.DeclType }

func (s *sizes) EstimateSize(node checker.AstNode) *checker.SizeEstimate {
	if len(node.Path()) == 0 || s.root == nil {
		return nil
	}
	at := s.root
	for _, name := range node.Path()[1:] {
		switch {
		case (name == "@items" || name == "@values") && at.ElemType != nil:
			at = at.ElemType
		case name == "@keys" && at.KeyType != nil:
			at = at.KeyType
		default:
			field, ok := at.Fields[name]
			if !ok || field.Type == nil {
				return nil
			}
			at = field.Type
		}
	}
	return &checker.SizeEstimate{Min: 0, Max: uint64(at.MaxElements)}
}

func (s *sizes) EstimateCallCost(string, string, *checker.AstNode, []checker.AstNode) *checker.CallEstimate {
	return nil
}

func (s *state) env() *cel.Env {
	base := environment.MustBaseEnvSet(environment.DefaultCompatibilityVersion())
	options := environment.VersionedOptions{IntroducedVersion: version.MajorMinor(1, 0)}
	if s.decl != nil {
		named := s.decl.MaybeAssignTypeName("selfType")
		options.EnvOptions = append(options.EnvOptions, cel.Variable("self", named.CelType()), cel.Variable("oldSelf", named.CelType()))
		options.DeclTypes = append(options.DeclTypes, named)
	}
	for _, v := range s.vars {
		options.EnvOptions = append(options.EnvOptions, cel.Variable(v.name, typeOf(v.ty)))
	}
	set, err := base.Extend(options)
	check(err)
	if s.stored {
		return set.StoredExpressionsEnv()
	}
	return set.NewExpressionsEnv()
}

func (s *state) activation() map[string]any {
	vars := map[string]any{}
	for _, v := range s.vars {
		if v.value != nil || strings.HasPrefix(v.ty, "kubernetes.") {
			vars[v.name] = valueOf(v.ty, v.value)
		}
	}
	if s.schema != nil {
		if s.self != nil {
			vars["self"] = schemacel.UnstructuredToVal(typed("", s.self), s.schema)
		}
		if s.old != nil {
			vars["oldSelf"] = schemacel.UnstructuredToVal(typed("", s.old), s.schema)
		}
	}
	return vars
}

func show(v ref.Val) string {
	switch v := v.(type) {
	case types.Null:
		return "null"
	case types.Bool, types.Int:
		return fmt.Sprint(v.Value())
	case types.Uint:
		return fmt.Sprintf("%du", uint64(v))
	case types.Double:
		return fmt.Sprintf("double(%v)", float64(v))
	case types.String:
		return fmt.Sprintf("%q", string(v))
	case types.Bytes:
		return fmt.Sprintf("bytes(%x)", []byte(v))
	case types.Timestamp:
		return fmt.Sprintf("timestamp(%d.%09d)", v.Unix(), v.Nanosecond())
	case types.Duration:
		return fmt.Sprintf("duration(%d)", v.Nanoseconds())
	case *types.Optional:
		if !v.HasValue() {
			return "optional.none"
		}
		return "optional(" + show(v.GetValue()) + ")"
	case traits.Lister:
		parts := []string{}
		for it := v.Iterator(); it.HasNext() == types.True; {
			parts = append(parts, show(it.Next()))
		}
		return "[" + strings.Join(parts, ", ") + "]"
	case traits.Mapper:
		parts := []string{}
		for it := v.Iterator(); it.HasNext() == types.True; {
			key := it.Next()
			parts = append(parts, show(key)+": "+show(v.Get(key)))
		}
		sort.Strings(parts)
		return "{" + strings.Join(parts, ", ") + "}"
	case ref.Type:
		return "type(" + v.TypeName() + ")"
	case apiservercel.Quantity:
		return "quantity(" + v.Quantity.String() + ")"
	case apiservercel.URL:
		return "url(" + v.URL.String() + ")"
	case apiservercel.IP:
		return "ip(" + v.Addr.String() + ")"
	case apiservercel.CIDR:
		return "cidr(" + v.Prefix.String() + ")"
	case apiservercel.Semver:
		return "semver(" + v.Version.String() + ")"
	}
	return "<" + v.Type().TypeName() + ">"
}

func (s *state) answer(expr string) (out answer) {
	out.Expr = expr
	defer func() {
		if p := recover(); p != nil && out.Type != "" {
			// Objects cannot be walked by what shows values.
			out.Value = "?"
		} else if p != nil {
			out.Error = fmt.Sprintf("PANIC %v", p)
		}
	}()
	if s.policy != nil {
		return s.policyAnswer(expr)
	}
	env := s.env()
	estimator := &library.CostEstimator{SizeEstimator: &sizes{root: s.decl}}
	ast, issues := env.Compile(strings.ReplaceAll(expr, "⏎", "\n"))
	if issues != nil && issues.Err() != nil {
		out.Error = issues.String()
		return out
	}
	out.Type = cel.FormatCELType(ast.OutputType())
	cost, err := env.EstimateCost(ast, estimator)
	check(err)
	out.Min, out.Max = fmt.Sprint(cost.Min), fmt.Sprint(cost.Max)
	program, err := env.Program(ast, cel.CostTracking(estimator), cel.CostLimit(1000000), cel.InterruptCheckFrequency(100))
	if err != nil {
		out.Fail = "program: " + err.Error()
		return out
	}
	value, details, err := program.ContextEval(context.Background(), s.activation())
	if details != nil && details.ActualCost() != nil {
		out.Cost = fmt.Sprint(*details.ActualCost())
	}
	if err != nil {
		out.Fail = err.Error()
		return out
	}
	out.Value = show(value)
	return out
}

func (s *state) policyAnswer(expr string) (out answer) {
	out.Expr = expr
	compiler := plugincel.NewCompiler(environment.MustBaseEnvSet(environment.DefaultCompatibilityVersion()))
	mode := environment.NewExpressions
	if s.stored {
		mode = environment.StoredExpressions
	}
	result := compiler.CompileCELExpression(policyExpression(strings.ReplaceAll(expr, "⏎", "\n")), *s.policy, mode)
	if result.Error != nil {
		out.Error = strings.TrimPrefix(result.Error.Detail, "compilation failed: ")
		return out
	}
	out.Type = cel.FormatCELType(result.OutputType)
	return out
}

func (s *state) directive(line string) {
	word, rest, _ := strings.Cut(line, " ")
	switch word {
	case "@reset":
		*s = state{}
	case "@env":
		s.stored = rest == "stored"
	case "@admission":
		s.policy = &plugincel.OptionalVariableDeclarations{
			HasParams:     strings.Contains(rest, "params"),
			HasAuthorizer: strings.Contains(rest, "authorizer"),
			HasPatchTypes: strings.Contains(rest, "patches"),
		}
	case "@root":
		s.root = true
	case "@var":
		parts := strings.SplitN(rest, " ", 3)
		v := variable{name: parts[0], ty: parts[1]}
		if len(parts) == 3 {
			v.value = parse(parts[2])
		}
		s.vars = append(s.vars, v)
	case "@schema":
		props := &apiextensionsv1.JSONSchemaProps{}
		check(json.Unmarshal([]byte(rest), props))
		internal := &apiextensions.JSONSchemaProps{}
		check(apiextensionsv1.Convert_v1_JSONSchemaProps_To_apiextensions_JSONSchemaProps(props, internal, nil))
		schema, err := structuralschema.NewStructural(internal)
		check(err)
		s.schema = schema
		s.decl = model.SchemaDeclType(schema, s.root)
	case "@value":
		s.self = parse(rest)
	case "@old":
		s.old = parse(rest)
	default:
		panic("no such directive: " + line)
	}
}

func main() {
	if len(os.Args) > 1 && os.Args[1] == "definitions" {
		definitions()
		return
	}
	in := bufio.NewScanner(os.Stdin)
	in.Buffer(nil, 16<<20)
	out := json.NewEncoder(os.Stdout)
	out.SetEscapeHTML(false)
	s := &state{}
	for in.Scan() {
		line := in.Text()
		switch {
		case line == "" || strings.HasPrefix(line, "#"):
		case strings.HasPrefix(line, "@"):
			s.directive(line)
		default:
			check(out.Encode(s.answer(line)))
		}
	}
	check(in.Err())
}
