package foldhost.bench.flink;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Comparator;
import java.util.stream.Stream;

/** Where checkpoints and savepoints lie. Used by {@link Main} and {@link Verify}. */
final class Checkpoints {
    private static final String LATEST = "latest";
    private static final int DEPTH_MAX = 3;

    private Checkpoints() {}

    static Path root(String stateDir) {
        return Path.of(stateDir, "checkpoints").toAbsolutePath();
    }

    static Path savepoints(String stateDir) {
        return root(stateDir).resolve("savepoints");
    }

    /** `latest` is the newest complete one under the state folder; anything else is a path or URI. */
    static String find(String wanted, String stateDir) throws IOException {
        if (!wanted.equals(LATEST)) {
            return wanted.contains(":") ? wanted : Path.of(wanted).toUri().toString();
        }
        // Flink renames `_metadata` into its place when all else is written.
        try (Stream<Path> files = Files.walk(root(stateDir), DEPTH_MAX)) {
            return files.filter(file -> file.endsWith("_metadata"))
                    .max(Comparator.comparingLong(file -> file.toFile().lastModified()))
                    .orElseThrow(() -> new IOException("no complete checkpoint under " + root(stateDir)))
                    .getParent()
                    .toUri()
                    .toString();
        }
    }
}
