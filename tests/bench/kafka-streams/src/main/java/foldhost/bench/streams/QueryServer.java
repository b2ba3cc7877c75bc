package foldhost.bench.streams;

import java.io.BufferedInputStream;
import java.io.BufferedOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.net.InetAddress;
import java.net.ServerSocket;
import java.net.Socket;
import java.net.URLDecoder;
import java.nio.charset.StandardCharsets;
import org.apache.kafka.streams.errors.InvalidStateStoreException;

/**
 * `GET /keys/{key}` over HTTP/1.1 with keep-alive: {"count":N}, or 404. Started by {@link Main}; the
 * driver measures its latency.
 *
 * <p>By hand, one thread per connection: nothing stands between the socket and the interactive query
 * (the JDK's own server costs several times as much per request).
 */
final class QueryServer {
    private static final String PATH = "/keys/";
    private static final int LINE_BYTES_MAX = 8192;

    private final ServerSocket listener;
    private final Store store;

    QueryServer(int port, Store store) throws IOException {
        this.listener = new ServerSocket(port, 128, InetAddress.getLoopbackAddress());
        this.store = store;
        thread("query-listener", this::accept);
    }

    private void accept() {
        try {
            while (true) {
                Socket socket = listener.accept();
                thread("query-connection", () -> serve(socket));
            }
        } catch (IOException error) {
            System.err.println("the query server ends: " + error);
        }
    }

    private void serve(Socket socket) {
        try (socket) {
            socket.setTcpNoDelay(true);
            InputStream in = new BufferedInputStream(socket.getInputStream(), LINE_BYTES_MAX);
            OutputStream out = new BufferedOutputStream(socket.getOutputStream(), LINE_BYTES_MAX);
            boolean open = true;
            while (open) {
                String request = line(in);
                if (request == null) {
                    return;
                }
                open = !request.endsWith(" HTTP/1.0");
                for (String header = line(in); header != null && !header.isEmpty(); header = line(in)) {
                    open &= !header.equalsIgnoreCase("connection: close");
                }
                out.write(answer(request, open).getBytes(StandardCharsets.US_ASCII));
                out.flush();
            }
        } catch (IOException error) {
            // The client is gone, and the connection with it.
        }
    }

    private String answer(String request, boolean open) {
        String[] parts = request.split(" ");
        if (parts.length != 3 || !parts[0].equals("GET") || !parts[1].startsWith(PATH)) {
            return response("404 Not Found", "{\"error\":\"GET /keys/{key} is all there is\"}", open);
        }
        String key = parts[1].substring(PATH.length());
        if (key.indexOf('%') >= 0) {
            key = URLDecoder.decode(key.replace("+", "%2B"), StandardCharsets.UTF_8);
        }
        try {
            byte[] state = store.get(key.getBytes(StandardCharsets.UTF_8));
            return state == null
                    ? response("404 Not Found", "{\"error\":\"no such key\"}", open)
                    : response("200 OK", "{\"count\":" + CountAndLast.count(state) + "}", open);
        } catch (InvalidStateStoreException error) {
            return response("503 Service Unavailable", "{\"error\":\"not running\"}", open);
        }
    }

    private static String response(String status, String body, boolean open) {
        return "HTTP/1.1 " + status + "\r\nContent-Type: application/json\r\nContent-Length: " + body.length()
                + (open ? "" : "\r\nConnection: close") + "\r\n\r\n" + body;
    }

    /** A line without its end, or null at the end of the stream. */
    private static String line(InputStream in) throws IOException {
        byte[] bytes = new byte[LINE_BYTES_MAX];
        int length = 0;
        for (int b = in.read(); b >= 0; b = in.read()) {
            if (b == '\n') {
                int end = length > 0 && bytes[length - 1] == '\r' ? length - 1 : length;
                return new String(bytes, 0, end, StandardCharsets.ISO_8859_1);
            }
            if (length == bytes.length) {
                throw new IOException("a line is too long");
            }
            bytes[length++] = (byte) b;
        }
        return null;
    }

    private static void thread(String name, Runnable work) {
        Thread thread = new Thread(work, name);
        thread.setDaemon(true);
        thread.start();
    }
}
