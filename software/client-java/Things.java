package software.client_java;

import static software.Tell.comes;
import static software.Tell.same;
import static software.Tell.told;
import static software.client_java.Main.NS;

import com.google.gson.Gson;
import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import io.kubernetes.client.ProtoClient;
import io.kubernetes.client.custom.IntOrString;
import io.kubernetes.client.custom.Quantity;
import io.kubernetes.client.custom.V1Patch;
import io.kubernetes.client.openapi.ApiClient;
import io.kubernetes.client.openapi.ApiException;
import io.kubernetes.client.openapi.apis.ApiextensionsV1Api;
import io.kubernetes.client.openapi.apis.AppsV1Api;
import io.kubernetes.client.openapi.apis.CoreV1Api;
import io.kubernetes.client.openapi.apis.CustomObjectsApi;
import io.kubernetes.client.openapi.models.V1ConfigMap;
import io.kubernetes.client.openapi.models.V1ConfigMapList;
import io.kubernetes.client.openapi.models.V1CustomResourceDefinition;
import io.kubernetes.client.openapi.models.V1Deployment;
import io.kubernetes.client.openapi.models.V1ObjectMeta;
import io.kubernetes.client.openapi.models.V1ResourceQuota;
import io.kubernetes.client.openapi.models.V1ResourceQuotaSpec;
import io.kubernetes.client.openapi.models.V1Service;
import io.kubernetes.client.proto.Meta;
import io.kubernetes.client.proto.V1;
import io.kubernetes.client.util.PatchUtils;
import io.kubernetes.client.util.Yaml;
import io.kubernetes.client.util.generic.GenericKubernetesApi;
import io.kubernetes.client.util.generic.KubernetesApiResponse;
import io.kubernetes.client.util.generic.dynamic.DynamicKubernetesApi;
import io.kubernetes.client.util.generic.dynamic.DynamicKubernetesObject;
import io.kubernetes.client.util.generic.options.PatchOptions;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import software.Tell;

/** Objects of built-in and custom kinds. */
final class Things {
    private static final String DEFINITION = """
            apiVersion: apiextensions.k8s.io/v1
            kind: CustomResourceDefinition
            metadata: {name: jars.java.example.com}
            spec:
              group: java.example.com
              scope: Namespaced
              names: {plural: jars, singular: jar, kind: Jar}
              versions:
              - name: v1
                served: true
                storage: true
                subresources:
                  status: {}
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

    static V1ConfigMap map(String name, String label, Map<String, String> data) {
        return new V1ConfigMap().metadata(new V1ObjectMeta().name(name).namespace(NS).putLabelsItem("of", label)).data(data);
    }

    /** Whether a request failed with this code, and with a Status that says so. */
    private static void refused(String what, int code, String reason, String text, Tell.Attempt attempt) throws Exception {
        try {
            attempt.run();
            told(what, false, "it was taken");
        } catch (ApiException e) {
            JsonObject status = JsonParser.parseString(e.getResponseBody()).getAsJsonObject();
            told(what, e.getCode() == code && reason.equals(status.get("reason").getAsString()) && status.get("message").getAsString().contains(text), status);
        }
    }

    private static V1ConfigMap patched(ApiClient client, String type, String body, String manager, Boolean force) throws ApiException {
        CoreV1Api core = new CoreV1Api(client);
        return PatchUtils.patch(V1ConfigMap.class,
                () -> core.patchNamespacedConfigMap("a", NS, new V1Patch(body)).fieldManager(manager).force(force).buildCall(null), type, client);
    }

    static void builtIn(ApiClient client) throws Exception {
        CoreV1Api core = new CoreV1Api(client);
        V1ConfigMap made = core.createNamespacedConfigMap(NS, map("a", "x", Map.of("one", "1"))).execute();
        told("a time is a time", made.getMetadata().getCreationTimestamp() != null, made);
        refused("a name twice", 409, "AlreadyExists", "configmaps \"a\" already exists", () -> core.createNamespacedConfigMap(NS, map("a", "x", null)).execute());
        refused("what is not there", 404, "NotFound", "configmaps \"none\" not found", () -> core.readNamespacedConfigMap("none", NS).execute());
        same("merge patch", patched(client, V1Patch.PATCH_FORMAT_JSON_MERGE_PATCH, "{\"data\": {\"one\": null, \"two\": \"2\"}}", null, null).getData(), Map.of("two", "2"));
        same("strategic patch", patched(client, V1Patch.PATCH_FORMAT_STRATEGIC_MERGE_PATCH, "{\"data\": {\"three\": \"3\"}}", null, null).getData(), Map.of("two", "2", "three", "3"));
        same("JSON patch", patched(client, V1Patch.PATCH_FORMAT_JSON_PATCH, "[{\"op\": \"remove\", \"path\": \"/data/two\"}]", null, null).getData(), Map.of("three", "3"));
        String apply = "{\"apiVersion\": \"v1\", \"kind\": \"ConfigMap\", \"metadata\": {\"name\": \"a\"}, \"data\": {\"three\": \"4\"}}";
        refused("apply of another's field", 409, "Conflict", ".data.three", () -> patched(client, V1Patch.PATCH_FORMAT_APPLY_YAML, apply, "one", null));
        same("apply by force", patched(client, V1Patch.PATCH_FORMAT_APPLY_YAML, apply, "one", true).getData(), Map.of("three", "4"));
        refused("an update of an old revision", 409, "Conflict", "the object has been modified", () -> core.replaceNamespacedConfigMap("a", NS, made).execute());
        same("a dry run", core.createNamespacedConfigMap(NS, map("dry", "x", null)).dryRun("All").execute().getMetadata().getName(), "dry");
        refused("it is not kept", 404, "NotFound", "dry", () -> core.readNamespacedConfigMap("dry", NS).execute());

        V1Deployment deployment = new AppsV1Api(client).createNamespacedDeployment(NS, Yaml.loadAs(DEPLOYMENT, V1Deployment.class)).execute();
        same("defaults", deployment.getSpec().getStrategy().getRollingUpdate().getMaxSurge(), new IntOrString("25%"));
        new AppsV1Api(client).deleteNamespacedDeployment("d", NS).propagationPolicy("Foreground").execute();
        V1Service service = Yaml.loadAs("{apiVersion: v1, kind: Service, metadata: {name: s}, spec: {ports: [{port: 80, targetPort: web}]}}", V1Service.class);
        same("a name or a number", core.createNamespacedService(NS, service).execute().getSpec().getPorts().get(0).getTargetPort(), new IntOrString("web"));
        V1ResourceQuota quota = new V1ResourceQuota().metadata(new V1ObjectMeta().name("q")).spec(new V1ResourceQuotaSpec().putHardItem("cpu", new Quantity("1500m")));
        same("an amount", core.createNamespacedResourceQuota(NS, quota).execute().getSpec().getHard().get("cpu").getNumber().doubleValue(), 1.5);
        core.deleteNamespacedResourceQuota("q", NS).execute();

        for (String name : List.of("p1", "p2", "p3")) {
            core.createNamespacedConfigMap(NS, map(name, "page", null)).execute();
        }
        List<Integer> pages = new ArrayList<>();
        String next = null;
        do {
            V1ConfigMapList page = core.listNamespacedConfigMap(NS).labelSelector("of=page").limit(2)._continue(next).execute();
            pages.add(page.getItems().size());
            next = page.getMetadata().getContinue();
        } while (next != null && !next.isEmpty());
        same("pages", pages, List.of(2, 1));
        same("many are deleted", core.deleteCollectionNamespacedConfigMap(NS).labelSelector("of=page").execute().getKind(), "ConfigMapList");

        GenericKubernetesApi<V1ConfigMap, V1ConfigMapList> maps = new GenericKubernetesApi<>(V1ConfigMap.class, V1ConfigMapList.class, "", "v1", "configmaps", client);
        same("a generic one", maps.get(NS, "a").getObject().getData(), Map.of("three", "4"));
        KubernetesApiResponse<V1ConfigMap> none = maps.get(NS, "none");
        same("and none", List.of(none.getHttpStatusCode(), none.getStatus().getReason()), List.of(404, "NotFound"));
        same("its deletion", maps.delete(NS, "a").isSuccess(), true);
    }

    /** The same in protobuf, which this client can speak. */
    static void protobuf(ApiClient client) throws Exception {
        ProtoClient proto = new ProtoClient(client);
        Meta.ObjectMeta meta = Meta.ObjectMeta.newBuilder().setName("proto").setNamespace(NS).build();
        V1.ConfigMap map = V1.ConfigMap.newBuilder().setMetadata(meta).putData("k", "ä").build();
        String path = "/api/v1/namespaces/" + NS + "/configmaps";
        ProtoClient.ObjectOrStatus<V1.ConfigMap> made = proto.create(map, path, "v1", "ConfigMap");
        same("made in protobuf", made.object.getDataMap(), Map.of("k", "ä"));
        ProtoClient.ObjectOrStatus<V1.ConfigMap> twice = proto.create(map, path, "v1", "ConfigMap");
        same("a Status in protobuf", List.of(twice.status.getReason(), twice.status.getCode()), List.of("AlreadyExists", 409));
        ProtoClient.ObjectOrStatus<V1.ConfigMapList> list = proto.list(V1.ConfigMapList.newBuilder(), path + "?fieldSelector=metadata.name%3Dproto");
        same("a list in protobuf", list.object.getItemsCount(), 1);
        ProtoClient.ObjectOrStatus<V1.ConfigMap> update = proto.update(map.toBuilder().putData("k", "v").build(), path + "/proto", "v1", "ConfigMap");
        same("an update in protobuf", update.object.getDataMap(), Map.of("k", "v"));
        ProtoClient.ObjectOrStatus<Meta.Status> gone = proto.delete(Meta.Status.newBuilder(), path + "/proto");
        told("a deletion in protobuf", gone.status != null && gone.status.getStatus().equals("Success"), gone);
    }

    static void custom(ApiClient client) throws Exception {
        ApiextensionsV1Api extensions = new ApiextensionsV1Api(client);
        // Of its own type for a schema the client writes every list that is empty, and a server refuses `dependencies`.
        DynamicKubernetesApi definitions = new DynamicKubernetesApi("apiextensions.k8s.io", "v1", "customresourcedefinitions", client);
        definitions.create(new DynamicKubernetesObject(new Gson().toJsonTree(new org.yaml.snakeyaml.Yaml().<Object>load(DEFINITION)).getAsJsonObject())).throwsApiException();
        comes("the definition is served", () -> {
            V1CustomResourceDefinition definition = extensions.readCustomResourceDefinition("jars.java.example.com").execute();
            return definition.getStatus() != null && definition.getStatus().getConditions() != null
                    && definition.getStatus().getConditions().stream().anyMatch(c -> c.getType().equals("Established") && c.getStatus().equals("True"));
        });
        DynamicKubernetesApi jars = new DynamicKubernetesApi("java.example.com", "v1", "jars", client);
        String head = "\"apiVersion\": \"java.example.com/v1\", \"kind\": \"Jar\", \"metadata\": {\"name\": \"j\", \"namespace\": \"" + NS + "\"}";
        DynamicKubernetesObject jar = new DynamicKubernetesObject(JsonParser.parseString("{" + head + ", \"spec\": {\"tags\": [\"a\"], \"other\": 1}}").getAsJsonObject());
        same("defaults and pruning", jars.create(jar).throwsApiException().getObject().getRaw().get("spec"), JsonParser.parseString("{\"n\": 1, \"tags\": [\"a\"]}"));
        V1Patch add = new V1Patch("{" + head + ", \"spec\": {\"tags\": [\"b\"]}}");
        PatchOptions by = new PatchOptions();
        by.setFieldManager("one");
        by.setForce(true);
        DynamicKubernetesObject applied = jars.patch(NS, "j", V1Patch.PATCH_FORMAT_APPLY_YAML, add, by).throwsApiException().getObject();
        same("apply adds to a set", applied.getRaw().get("spec").getAsJsonObject().get("tags"), JsonParser.parseString("[\"a\", \"b\"]"));
        CustomObjectsApi objects = new CustomObjectsApi(client);
        PatchUtils.patch(Object.class, () -> objects.patchNamespacedCustomObjectStatus("java.example.com", "v1", NS, "jars", "j", new V1Patch("{\"status\": {\"n\": 7}}"))
                .buildCall(null), V1Patch.PATCH_FORMAT_JSON_MERGE_PATCH, client);
        same("its status", jars.get(NS, "j").throwsApiException().getObject().getRaw().get("status"), JsonParser.parseString("{\"n\": 7}"));
        KubernetesApiResponse<DynamicKubernetesObject> wrong = jars.patch(NS, "j", V1Patch.PATCH_FORMAT_JSON_MERGE_PATCH, new V1Patch("{\"spec\": {\"n\": \"two\"}}"));
        same("a wrong type", List.of(wrong.getHttpStatusCode(), wrong.getStatus().getDetails().getCauses().get(0).getField()), List.of(422, "spec.n"));
        same("a list of them", jars.list(NS).getObject().getItems().size(), 1);
        same("its deletion", jars.delete(NS, "j").isSuccess(), true);
        extensions.deleteCustomResourceDefinition("jars.java.example.com").execute();
    }
}
