package software.fabric8;

import static software.Tell.comes;
import static software.Tell.same;
import static software.Tell.told;
import static software.fabric8.Main.NS;

import io.fabric8.kubernetes.api.model.ConfigMap;
import io.fabric8.kubernetes.api.model.ConfigMapBuilder;
import io.fabric8.kubernetes.api.model.ConfigMapList;
import io.fabric8.kubernetes.api.model.DeletionPropagation;
import io.fabric8.kubernetes.api.model.GenericKubernetesResource;
import io.fabric8.kubernetes.api.model.KubernetesResourceList;
import io.fabric8.kubernetes.api.model.ListOptionsBuilder;
import io.fabric8.kubernetes.api.model.Service;
import io.fabric8.kubernetes.api.model.ServiceBuilder;
import io.fabric8.kubernetes.api.model.Status;
import io.fabric8.kubernetes.api.model.apiextensions.v1.CustomResourceDefinition;
import io.fabric8.kubernetes.api.model.apps.Deployment;
import io.fabric8.kubernetes.client.KubernetesClient;
import io.fabric8.kubernetes.client.KubernetesClientException;
import io.fabric8.kubernetes.client.dsl.FieldValidateable;
import io.fabric8.kubernetes.client.dsl.MixedOperation;
import io.fabric8.kubernetes.client.dsl.NonNamespaceOperation;
import io.fabric8.kubernetes.client.dsl.Resource;
import io.fabric8.kubernetes.client.dsl.base.PatchContext;
import io.fabric8.kubernetes.client.dsl.base.PatchType;
import java.io.ByteArrayInputStream;
import java.io.InputStream;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Set;
import software.Tell;

/** Objects of built-in and custom kinds. */
final class Things {
    private static final String DEFINITION = """
            apiVersion: apiextensions.k8s.io/v1
            kind: CustomResourceDefinition
            metadata: {name: jars.fabric8.example.com}
            spec:
              group: fabric8.example.com
              scope: Namespaced
              names: {plural: jars, singular: jar, kind: Jar}
              versions:
              - name: v1
                served: true
                storage: true
                subresources:
                  status: {}
                  scale: {specReplicasPath: .spec.n, statusReplicasPath: .status.n}
                schema:
                  openAPIV3Schema:
                    type: object
                    properties:
                      spec:
                        type: object
                        properties:
                          n: {type: integer, default: 1}
                          tags: {type: array, items: {type: string}, x-kubernetes-list-type: set}
                      status:
                        type: object
                        properties: {n: {type: integer}}
            """;
    private static final String DEPLOYMENT = """
            apiVersion: apps/v1
            kind: Deployment
            metadata: {name: d}
            spec:
              replicas: 0
              selector: {matchLabels: {app: d}}
              template:
                metadata: {labels: {app: d}}
                spec: {containers: [{name: c, image: 'knarr.local/shell:v1', args: [wait]}]}
            """;

    private Things() {}

    static ConfigMap map(String name, Map<String, String> data) {
        return new ConfigMapBuilder().withNewMetadata().withName(name).addToLabels("of", "fabric8").endMetadata().withData(data).build();
    }

    private static InputStream yaml(String text) {
        return new ByteArrayInputStream(text.getBytes(StandardCharsets.UTF_8));
    }

    /** Whether a request failed with this code, and with a Status that says so. */
    private static void refused(String what, int code, String reason, String text, Tell.Attempt attempt) throws Exception {
        try {
            attempt.run();
            told(what, false, "it was taken");
        } catch (KubernetesClientException e) {
            Status status = e.getStatus();
            told(what, e.getCode() == code && status != null && reason.equals(status.getReason()) && status.getMessage().contains(text), e + "\n" + e.getCause());
        }
    }

    static void builtIn(KubernetesClient client) throws Exception {
        NonNamespaceOperation<ConfigMap, ConfigMapList, Resource<ConfigMap>> maps = client.configMaps().inNamespace(NS);
        Resource<ConfigMap> a = maps.withName("a");
        ConfigMap made = maps.resource(map("a", Map.of("one", "1"))).create();
        refused("a name twice", 409, "AlreadyExists", "configmaps \"a\" already exists", () -> maps.resource(map("a", Map.of())).create());
        same("what is not there", maps.withName("none").get(), null);
        same("edit", a.edit(m -> new ConfigMapBuilder(m).addToData("two", "2").build()).getData(), Map.of("one", "1", "two", "2"));
        same("merge patch", a.patch(PatchContext.of(PatchType.JSON_MERGE), "{\"data\": {\"one\": null}}").getData(), Map.of("two", "2"));
        same("strategic patch", a.patch(PatchContext.of(PatchType.STRATEGIC_MERGE), "data: {three: '3'}").getData(), Map.of("two", "2", "three", "3"));
        String test = "[{\"op\": \"test\", \"path\": \"/data/two\", \"value\": \"9\"}]";
        refused("a JSON patch whose test fails", 422, "Invalid", "the server rejected our request", () -> a.patch(PatchContext.of(PatchType.JSON), test));
        refused("an update of an old revision", 409, "Conflict", "the object has been modified", () -> maps.resource(made).lockResourceVersion().update());
        same("an update of whatever is there", maps.resource(map("a", Map.of("four", "4"))).update().getData(), Map.of("four", "4"));
        same("make or update", maps.resource(map("b", Map.of("x", "1"))).createOr(r -> r.update()).getData(), Map.of("x", "1"));
        same("make or update once more", maps.resource(map("b", Map.of("x", "2"))).createOr(r -> r.update()).getData(), Map.of("x", "2"));
        same("unlock what is locked", maps.resource(map("b", Map.of("x", "3"))).unlock().createOr(r -> r.update()).getData(), Map.of("x", "3"));
        refused("apply of another's field", 409, "Conflict", ".data.x", () -> maps.resource(map("b", Map.of("x", "4"))).serverSideApply());
        ConfigMap applied = maps.resource(map("b", Map.of("x", "4"))).fieldManager("one").forceConflicts().serverSideApply();
        same("apply by force", applied.getData(), Map.of("x", "4"));
        told("who applied", applied.getMetadata().getManagedFields().stream().anyMatch(f -> f.getManager().equals("one") && f.getOperation().equals("Apply")), applied);
        same("a dry run", List.of(maps.resource(map("dry", Map.of())).dryRun().create().getMetadata().getName(), maps.withName("dry").get() == null), List.of("dry", true));
        refused("a field that is none", 400, "BadRequest", "unknown field \"spec.wrong\"", () -> {
            String wrong = "apiVersion: v1\nkind: Service\nmetadata: {name: wrong}\nspec: {wrong: 1, ports: [{port: 1}]}\n";
            client.genericKubernetesResources("v1", "Service").inNamespace(NS).load(yaml(wrong)).fieldValidation(FieldValidateable.Validation.STRICT).create();
        });

        for (String name : List.of("p1", "p2", "p3")) {
            maps.resource(new ConfigMapBuilder(map(name, Map.of())).editMetadata().addToLabels("page", "yes").endMetadata().build()).create();
        }
        List<Integer> pages = new ArrayList<>();
        String next = null;
        do {
            ConfigMapList page = maps.withLabel("page").list(new ListOptionsBuilder().withLimit(2L).withContinue(next).build());
            pages.add(page.getItems().size());
            next = page.getMetadata().getContinue();
        } while (next != null && !next.isEmpty());
        same("pages", pages, List.of(2, 1));
        same("selectors", maps.withLabelIn("page", "yes", "no").withField("metadata.name", "p2").list().getItems().size(), 1);
        same("many are deleted", List.of(maps.withLabel("page").delete().size(), maps.withLabel("page").list().getItems().size()), List.of(3, 0));

        Deployment deployment = client.apps().deployments().load(yaml(DEPLOYMENT)).item();
        client.apps().deployments().inNamespace(NS).resource(deployment).serverSideApply();
        same("scale", client.apps().deployments().inNamespace(NS).withName("d").scale(2).getSpec().getReplicas(), 2);
        same("its subresource", client.apps().deployments().inNamespace(NS).withName("d").scale().getSpec().getReplicas(), 2);
        client.apps().deployments().inNamespace(NS).withName("d").withPropagationPolicy(DeletionPropagation.FOREGROUND).delete();
        Service service = new ServiceBuilder().withNewMetadata().withName("s").endMetadata().withNewSpec().addNewPort().withPort(80).withNewTargetPort("web").endPort().endSpec().build();
        client.resourceList(service, map("c", Map.of())).inNamespace(NS).serverSideApply();
        told("a list of objects is applied", client.services().inNamespace(NS).withName("s").get() != null && maps.withName("c").get() != null, null);
        same("its second apply changes nothing", client.resourceList(service).inNamespace(NS).serverSideApply().get(0).getMetadata().getResourceVersion(),
                client.services().inNamespace(NS).withName("s").get().getMetadata().getResourceVersion());
        told("resources are told", client.getApiGroups().getGroups().stream().anyMatch(g -> g.getName().equals("apps")) && client.supports(Deployment.class), null);
    }

    static void custom(KubernetesClient client) throws Exception {
        CustomResourceDefinition definition = client.apiextensions().v1().customResourceDefinitions().load(yaml(DEFINITION)).item();
        client.apiextensions().v1().customResourceDefinitions().resource(definition).serverSideApply();
        comes("the definition is served", () -> client.apiextensions().v1().customResourceDefinitions().withName("jars.fabric8.example.com").isReady());
        MixedOperation<Jar, KubernetesResourceList<Jar>, Resource<Jar>> all = client.resources(Jar.class);
        NonNamespaceOperation<Jar, KubernetesResourceList<Jar>, Resource<Jar>> jars = all.inNamespace(NS);
        same("a default", jars.resource(Jar.of("j", Jar.Spec.of(null, "a"))).create().getSpec().n, 1);
        Jar edited = jars.withName("j").edit(j -> {
            j.getSpec().n = 2;
            return j;
        });
        same("edit of a custom object", List.of(edited.getSpec().n, edited.getMetadata().getGeneration()), List.of(2, 2L));
        Jar applied = jars.resource(Jar.of("j", Jar.Spec.of(null, "b"))).fieldManager("one").serverSideApply();
        same("apply adds to a set", applied.getSpec().tags, Set.of("a", "b"));
        refused("apply of another's field", 409, "Conflict", ".spec.n", () -> jars.resource(Jar.of("j", Jar.Spec.of(9))).fieldManager("two").serverSideApply());
        same("by force", jars.resource(Jar.of("j", Jar.Spec.of(9))).fieldManager("two").forceConflicts().serverSideApply().getSpec().n, 9);
        Jar told = jars.withName("j").editStatus(j -> {
            j.setStatus(new Jar.Status());
            j.getStatus().n = 7;
            j.getSpec().n = 100;
            return j;
        });
        same("its status alone", List.of(told.getStatus().n, told.getSpec().n), List.of(7, 9));
        same("its scale", jars.withName("j").scale().getStatus().getReplicas(), 7);
        refused("a wrong type", 422, "Invalid", "must be of type integer", () -> jars.withName("j").patch(PatchContext.of(PatchType.JSON_MERGE), "{\"spec\": {\"n\": \"two\"}}"));
        GenericKubernetesResource any = client.genericKubernetesResources("fabric8.example.com/v1", "Jar").inNamespace(NS).withName("j").get();
        same("as a tree", any.<Integer>get("spec", "n"), 9);
        same("its deletion", jars.withName("j").delete().get(0).getName(), "j");
        client.apiextensions().v1().customResourceDefinitions().withName("jars.fabric8.example.com").delete();
    }
}
