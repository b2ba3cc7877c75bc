package foldhost.bench;

import java.io.IOException;
import java.io.InputStream;
import java.io.UncheckedIOException;
import java.nio.charset.StandardCharsets;
import java.util.HashMap;
import java.util.Map;
import java.util.Properties;
import java.util.StringJoiner;
import java.util.stream.Stream;

/**
 * The contestant protocol: arguments in, one JSON object per line on stdout out, and the digest of a
 * final state. Compiled into each of the Java contestants, which the benchmark's driver starts.
 *
 * <p>Invariant: stdout carries nothing but whole lines of the protocol, each flushed at once.
 */
public final class Protocol {
    private static final long FNV_OFFSET_BASIS = 0xcbf29ce484222325L;
    private static final long FNV_PRIME = 0x100000001b3L;

    private Protocol() {}

    /** The arguments, `--name value` each. */
    public static Map<String, String> arguments(String[] args) {
        Map<String, String> arguments = new HashMap<>();
        for (int i = 0; i < args.length; i += 2) {
            if (!args[i].startsWith("--") || i + 1 == args.length) {
                throw new IllegalArgumentException("expected `--name value`, got: " + args[i]);
            }
            arguments.put(args[i].substring(2), args[i + 1]);
        }
        return arguments;
    }

    /** An argument that must be there. */
    public static String required(Map<String, String> arguments, String name) {
        String value = arguments.get(name);
        if (value == null) {
            throw new IllegalArgumentException("--" + name + " is missing");
        }
        return value;
    }

    /** Something happened now: {"event":name,"at_ms":epoch milliseconds, fields}. */
    public static void event(String name, Object... fields) {
        Object[] all = new Object[fields.length + 2];
        all[0] = "at_ms";
        all[1] = System.currentTimeMillis();
        System.arraycopy(fields, 0, all, 2, fields.length);
        line(name, all);
    }

    /** One line: {"event":name, fields}; fields are names and values in turn, numbers stay numbers. */
    public static void line(String name, Object... fields) {
        StringJoiner json = new StringJoiner(",", "{", "}").add("\"event\":" + quoted(name));
        for (int i = 0; i < fields.length; i += 2) {
            Object value = fields[i + 1];
            json.add(quoted((String) fields[i]) + ":"
                    + (value instanceof Number ? value : quoted(String.valueOf(value))));
        }
        synchronized (System.out) {
            System.out.print(json + "\n"); // one write, so that no line is ever half there
            System.out.flush();
        }
    }

    /** The settings that the report prints, a flat object of strings. */
    public static void settings(Map<String, String> settings) {
        line("settings", settings.entrySet().stream()
                .flatMap(entry -> Stream.of(entry.getKey(), entry.getValue()))
                .toArray());
    }

    /** The version that a jar of Kafka says it is, from `kafka/<module>-version.properties` in it. */
    public static String kafkaVersion(String module) {
        try (InputStream in =
                Protocol.class.getResourceAsStream("/kafka/" + module + "-version.properties")) {
            Properties version = new Properties();
            version.load(in);
            return version.getProperty("version");
        } catch (IOException error) {
            throw new UncheckedIOException(error);
        }
    }

    /** What `check` answers: keys, the sum of their counts, the sum of their digests. */
    public static void check(long keys, long events, long digest) {
        line("check", "keys", keys, "events", events, "digest", String.format("%016x", digest));
    }

    /** FNV-1a-64 of key, count (8 bytes, little-endian) and last value; the digest is their sum. */
    public static long digest(byte[] key, long count, byte[] value, int valueFrom, int valueTo) {
        long hash = fnv1a(FNV_OFFSET_BASIS, key, 0, key.length);
        for (int shift = 0; shift < 64; shift += 8) {
            hash = (hash ^ (count >>> shift & 0xff)) * FNV_PRIME;
        }
        return fnv1a(hash, value, valueFrom, valueTo);
    }

    private static long fnv1a(long hash, byte[] bytes, int from, int to) {
        for (int i = from; i < to; i++) {
            hash = (hash ^ (bytes[i] & 0xff)) * FNV_PRIME;
        }
        return hash;
    }

    private static String quoted(String text) {
        StringBuilder json = new StringBuilder("\"");
        for (byte b : text.getBytes(StandardCharsets.UTF_8)) {
            if (b == '"' || b == '\\') {
                json.append('\\').append((char) b);
            } else if (b < ' ' || b > '~') {
                json.append(b == '\n' ? "\\n" : "?"); // settings and paths are ASCII
            } else {
                json.append((char) b);
            }
        }
        return json.append('"').toString();
    }
}
