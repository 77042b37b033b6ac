package software;

import java.io.IOException;
import java.io.PrintWriter;
import java.io.StringWriter;
import java.util.Objects;

/** Lines as {@code checks.py} writes them. */
public final class Tell {
    /** Of everything that is waited for. */
    public static final long PATIENCE_MS = 30_000;

    private Tell() {}

    /** What may fail in any way. */
    @FunctionalInterface
    public interface Attempt {
        void run() throws Exception;
    }

    /** A question that may fail in any way. */
    @FunctionalInterface
    public interface Question {
        boolean ask() throws Exception;
    }

    public static void told(String what, boolean good, Object detail) {
        System.out.println((good ? "ok " : "WRONG ") + what);
        if (!good) {
            System.out.println(String.valueOf(detail).indent(4));
        }
    }

    public static void same(String what, Object is, Object wanted) {
        told(what, Objects.equals(is, wanted), "is     " + is + "\nwanted " + wanted);
    }

    /** What comes about by itself. */
    public static void comes(String what, Question question) throws Exception {
        long end = System.currentTimeMillis() + PATIENCE_MS;
        boolean good;
        while (!(good = question.ask()) && System.currentTimeMillis() < end) {
            Thread.sleep(100);
        }
        told(what, good, "not in time");
    }

    /** A part of the check: whatever goes wrong is told, and the next part is tried. */
    public static void part(String name, Attempt attempt) {
        try {
            attempt.run();
        } catch (Exception | LinkageError e) {
            StringWriter trace = new StringWriter();
            e.printStackTrace(new PrintWriter(trace));
            told(name + " runs to its end", false, trace);
        }
    }

    /** Whether somebody is there who kills knarr and starts it again (`check`): then it is done. */
    public static boolean knarrIsKilled() throws IOException {
        if (System.getenv("CLUSTER") == null) {
            return false;
        }
        System.out.println("KILL");
        return System.in.read() == '\n';
    }
}
