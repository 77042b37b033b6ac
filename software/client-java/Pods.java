package software.client_java;

import static software.Tell.comes;
import static software.Tell.same;
import static software.Tell.told;
import static software.client_java.Main.NS;

import com.google.gson.JsonElement;
import io.kubernetes.client.Attach;
import io.kubernetes.client.Exec;
import io.kubernetes.client.PodLogs;
import io.kubernetes.client.PortForward;
import io.kubernetes.client.openapi.ApiClient;
import io.kubernetes.client.openapi.ApiException;
import io.kubernetes.client.openapi.apis.CoreV1Api;
import io.kubernetes.client.openapi.models.V1Container;
import io.kubernetes.client.openapi.models.V1ObjectMeta;
import io.kubernetes.client.openapi.models.V1Pod;
import io.kubernetes.client.openapi.models.V1PodSpec;
import io.kubernetes.client.util.generic.dynamic.DynamicKubernetesApi;
import io.kubernetes.client.util.generic.dynamic.DynamicKubernetesObject;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStream;
import java.io.InputStreamReader;
import java.io.OutputStream;
import java.util.List;
import java.util.concurrent.TimeUnit;
import java.util.stream.Collectors;
import java.util.stream.IntStream;

/** Pods: exec, attach, port-forward, logs. */
final class Pods {
    private Pods() {}

    private static void make(CoreV1Api core, String name, boolean stdin, String... arguments) throws ApiException {
        V1Container container = new V1Container().name("c").image("knarr.local/shell:v1").imagePullPolicy("IfNotPresent").stdin(stdin).args(List.of(arguments));
        V1PodSpec spec = new V1PodSpec().terminationGracePeriodSeconds(1L).addContainersItem(container);
        core.createNamespacedPod(NS, new V1Pod().metadata(new V1ObjectMeta().name(name)).spec(spec)).execute();
    }

    /** As a tree: the client's own type refuses a status with fields that it does not know, and v1.37 has some. */
    private static boolean ready(DynamicKubernetesApi pods, String name) throws ApiException {
        JsonElement conditions = pods.get(NS, name).throwsApiException().getObject().getRaw().getAsJsonObject("status").get("conditions");
        return conditions != null && conditions.toString().matches(".*\"type\":\"Ready\"[^}]*\"status\":\"True\".*");
    }

    static void pods(ApiClient client) throws Exception {
        CoreV1Api core = new CoreV1Api(client);
        DynamicKubernetesApi pods = new DynamicKubernetesApi("", "v1", "pods", client);
        make(core, "shell", false, "serve", "8080");
        make(core, "count", false, "count");
        make(core, "cat", true, "cat");
        for (String name : List.of("shell", "count", "cat")) {
            comes("a pod gets ready", () -> ready(pods, name));
        }
        exec(client);
        try (Attach.AttachResult attached = new Attach(client).newConnectionBuilder(NS, "cat").setContainer("c").setStdin(true).setStdout(true).connect()) {
            attached.getStandardInputStream().write("attached\n".getBytes());
            attached.getStandardInputStream().flush();
            same("attach", new String(attached.getStandardOutputStream().readNBytes(9)), "attached\n");
        }
        PortForward.PortForwardResult forward = new PortForward(client).forward(NS, "shell", List.of(8080));
        BufferedReader answer = new BufferedReader(new InputStreamReader(forward.getInputStream(8080)));
        forward.getOutboundStream(8080).write("GET /forwarded HTTP/1.0\r\n\r\n".getBytes());
        forward.getOutboundStream(8080).flush();
        same("port-forward", answer.readLine(), "HTTP/1.0 200 OK");
        try (InputStream log = new PodLogs(client).streamNamespacedPodLog(NS, "count", "c")) {
            BufferedReader lines = new BufferedReader(new InputStreamReader(log));
            same("logs are followed", List.of(lines.readLine(), lines.readLine()), List.of("line 0", "line 1"));
        }
        String last = core.readNamespacedPodLog("count", NS).tailLines(2).timestamps(true).execute();
        told("the last lines, with times", last.matches("(\\d{4}-\\d\\d-\\d\\dT[\\d:.]+Z line \\d+\n){2}"), last);
        DynamicKubernetesObject gone = pods.delete(NS, "shell").throwsApiException().getObject();
        told("a pod's deletion gives the pod", gone == null || gone.getMetadata().getDeletionTimestamp() != null, gone);
    }

    private static String all(InputStream stream) throws IOException {
        return new String(stream.readAllBytes());
    }

    private static void exec(ApiClient client) throws Exception {
        Exec exec = new Exec(client);
        Process both = exec.exec(NS, "shell", new String[] {"/shell", "both"}, "c", false, false);
        // Both before one is read: the client gives none when all are at their end.
        InputStream out = both.getInputStream();
        InputStream err = both.getErrorStream();
        same("exec tells its outputs apart", List.of(all(out), all(err)), List.of("to stdout\n", "to stderr\n"));
        same("exec ends well", both.waitFor(), 0);
        same("exec tells how it ended", exec.exec(NS, "shell", new String[] {"/shell", "exit", "3"}, "c", false, false).waitFor(), 3);
        Process cat = exec.exec(NS, "shell", new String[] {"/shell", "cat"}, "c", true, false);
        String text = IntStream.range(0, 20_000).mapToObj(i -> "line " + i + "\n").collect(Collectors.joining());
        Thread writes = new Thread(() -> {
            try {
                OutputStream to = cat.getOutputStream();
                to.write(text.getBytes());
                to.flush();
            } catch (IOException e) {
                told("exec is given its input", false, e);
            }
        });
        writes.start();
        same("exec gives back what it is given", new String(cat.getInputStream().readNBytes(text.length())).equals(text), true);
        writes.join();
        cat.destroy();
        try {
            Process none = exec.exec(NS, "nobody", new String[] {"/shell"}, "c", false, false);
            told("exec in no pod", none.waitFor(10, TimeUnit.SECONDS) && none.exitValue() != 0, "it was done");
        } catch (ApiException e) {
            told("exec in no pod", e.getCode() == 404, e);
        }
    }
}
