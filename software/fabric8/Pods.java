package software.fabric8;

import static software.Tell.comes;
import static software.Tell.same;
import static software.Tell.told;
import static software.fabric8.Main.NS;

import io.fabric8.kubernetes.api.model.Pod;
import io.fabric8.kubernetes.api.model.PodBuilder;
import io.fabric8.kubernetes.api.model.Status;
import io.fabric8.kubernetes.client.KubernetesClient;
import io.fabric8.kubernetes.client.KubernetesClientException;
import io.fabric8.kubernetes.client.LocalPortForward;
import io.fabric8.kubernetes.client.dsl.ExecListener;
import io.fabric8.kubernetes.client.dsl.ExecWatch;
import io.fabric8.kubernetes.client.dsl.LogWatch;
import io.fabric8.kubernetes.client.dsl.PodResource;
import java.io.ByteArrayOutputStream;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;
import java.util.stream.Collectors;
import java.util.stream.IntStream;

/** Pods: exec, attach, port-forward, logs, eviction. */
final class Pods {
    private Pods() {}

    private static void make(KubernetesClient client, String name, boolean stdin, String... arguments) {
        Pod pod = new PodBuilder().withNewMetadata().withName(name).addToLabels("app", name).endMetadata().withNewSpec().withTerminationGracePeriodSeconds(1L)
                .addNewContainer().withName("c").withImage("knarr.local/shell:v1").withImagePullPolicy("IfNotPresent").withStdin(stdin).withArgs(arguments)
                .endContainer().endSpec().build();
        client.pods().inNamespace(NS).resource(pod).create();
    }

    private static PodResource of(KubernetesClient client, String name) {
        return client.pods().inNamespace(NS).withName(name);
    }

    static void pods(KubernetesClient client) throws Exception {
        make(client, "shell", false, "serve", "8080");
        make(client, "count", false, "count");
        make(client, "cat", true, "cat");
        for (String name : List.of("shell", "count", "cat")) {
            told("a pod gets ready", of(client, name).waitUntilReady(30, TimeUnit.SECONDS) != null, name);
        }
        exec(client);
        ByteArrayOutputStream echo = new ByteArrayOutputStream();
        try (ExecWatch attached = of(client, "cat").redirectingInput().writingOutput(echo).attach()) {
            attached.getInput().write("attached\n".getBytes());
            attached.getInput().flush();
            comes("attach", () -> echo.toString().equals("attached\n"));
        }
        try (LocalPortForward forward = of(client, "shell").portForward(8080)) {
            URI address = URI.create("http://127.0.0.1:" + forward.getLocalPort() + "/forwarded");
            HttpResponse<String> answer = HttpClient.newHttpClient().send(HttpRequest.newBuilder(address).build(), HttpResponse.BodyHandlers.ofString());
            same("port-forward", answer.body(), "GET /forwarded\n");
        }
        ByteArrayOutputStream followed = new ByteArrayOutputStream();
        try (LogWatch watch = of(client, "count").watchLog(followed)) {
            comes("logs are followed", () -> followed.toString().lines().count() > 5);
        }
        same("from their begin", followed.toString().lines().limit(2).toList(), List.of("line 0", "line 1"));
        told("the last lines, with times", of(client, "count").usingTimestamps().tailingLines(2).getLog().matches("(\\d{4}-\\d\\d-\\d\\dT[\\d:.]+Z line \\d+\n){2}"), null);
        same("so many bytes", of(client, "count").limitBytes(9).getLog(), "line 0\nli");
        try {
            of(client, "count").inContainer("none").getLog();
            told("logs of no container", false, "they were given");
        } catch (KubernetesClientException e) {
            told("logs of no container", e.getMessage().contains("container none is not valid for pod count"), e.getMessage());
        }
        same("an eviction", of(client, "count").evict(), true);
        Pod gone = of(client, "count").waitUntilCondition(pod -> pod == null, 30, TimeUnit.SECONDS);
        same("it goes", gone, null);
        told("a deletion is told", !of(client, "cat").delete().isEmpty(), null);
    }

    private static void exec(KubernetesClient client) throws Exception {
        ByteArrayOutputStream out = new ByteArrayOutputStream();
        ByteArrayOutputStream err = new ByteArrayOutputStream();
        try (ExecWatch both = of(client, "shell").writingOutput(out).writingError(err).exec("/shell", "both")) {
            same("exec ends well", both.exitCode().get(10, TimeUnit.SECONDS), 0);
        }
        same("exec tells its outputs apart", List.of(out.toString(), err.toString()), List.of("to stdout\n", "to stderr\n"));
        CompletableFuture<Status> status = new CompletableFuture<>();
        ExecListener listener = new ExecListener() {
            @Override
            public void onExit(int code, Status told) {
                status.complete(told);
            }

            @Override
            public void onClose(int code, String reason) {}
        };
        try (ExecWatch exit = of(client, "shell").writingOutput(out).usingListener(listener).exec("/shell", "exit", "3")) {
            same("exec tells how it ended", exit.exitCode().get(10, TimeUnit.SECONDS), 3);
            same("and its reason", status.get(10, TimeUnit.SECONDS).getReason(), "NonZeroExitCode");
        }
        String text = IntStream.range(0, 20_000).mapToObj(i -> "line " + i + "\n").collect(Collectors.joining());
        ByteArrayOutputStream back = new ByteArrayOutputStream();
        // The client knows no version of the protocol that tells the end of the input.
        try (ExecWatch cat = of(client, "shell").redirectingInput().writingOutput(back).exec("/shell", "cat")) {
            cat.getInput().write(text.getBytes());
            cat.getInput().flush();
            comes("exec gives back what it is given", () -> back.toString().equals(text));
        }
        ByteArrayOutputStream screen = new ByteArrayOutputStream();
        try (ExecWatch size = of(client, "shell").redirectingInput().writingOutput(screen).withTTY().exec("/shell", "size")) {
            size.resize(44, 33);
            comes("a terminal is resized", () -> screen.toString().contains("33 44"));
        }
    }
}
