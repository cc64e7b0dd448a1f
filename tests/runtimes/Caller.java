// A caller in Java: as caller.py, with java.net.http.HttpClient, and with "old" HttpURLConnection.
import com.sun.net.httpserver.HttpServer;
import java.io.InputStream;
import java.net.*;
import java.net.http.*;
import java.nio.channels.*;
import java.time.Duration;
import java.util.*;
import java.util.concurrent.Executors;

public class Caller {
    static HttpClient kept; // made when the properties are set

    static HttpClient client() {
        return HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).build();
    }

    static String name(Throwable error) {
        for (Throwable e = error; e != null; e = e.getCause()) {
            String text = String.valueOf(e.getMessage());
            if (e instanceof UnresolvedAddressException || e instanceof UnknownHostException) return "dns";
            if (e instanceof HttpTimeoutException || e instanceof SocketTimeoutException) return "timeout";
            if (text.contains("onnection reset") || text.contains("Too many retries")) return "reset";
            if (text.contains("onnection refused")) return "refused";
            // HttpClient hides the errno of a connect that failed at once in this one (JDK-8209137).
            if (e instanceof ClosedChannelException) return "refused";
        }
        return String.valueOf(error);
    }

    static int byClient(URI to, int timeout, boolean keep) throws Exception {
        HttpRequest ask = HttpRequest.newBuilder(to).timeout(Duration.ofMillis(timeout)).build();
        return (keep ? kept : client()).send(ask, HttpResponse.BodyHandlers.discarding()).statusCode();
    }

    static int byUrl(URI to, int timeout, boolean keep) throws Exception {
        HttpURLConnection c = (HttpURLConnection) to.toURL().openConnection();
        c.setConnectTimeout(timeout);
        c.setReadTimeout(timeout);
        try {
            int status = c.getResponseCode();
            InputStream body = status < 400 ? c.getInputStream() : c.getErrorStream(); // null: an error without a body
            if (body != null) body.readAllBytes();
            return status;
        } finally {
            if (!keep) c.disconnect();
        }
    }

    static double lag; // ms, the most since it was reset; one call at a time

    static void watch() {
        long last = System.nanoTime();
        for (;;) {
            try {
                Thread.sleep(10);
            } catch (InterruptedException e) {
                return;
            }
            long now = System.nanoTime();
            synchronized (Caller.class) {
                lag = Math.max(lag, (now - last) / 1e6 - 10);
            }
            last = now;
        }
    }

    static synchronized double lag(boolean reset) {
        double was = lag;
        if (reset) lag = 0;
        return was;
    }

    public static void main(String[] args) throws Exception {
        boolean old = args.length > 1 && args[1].equals("old");
        // What it tries again by itself would be counted, too: once is what is asked for.
        System.setProperty("sun.net.http.retryPost", "false");
        System.setProperty("jdk.httpclient.disableRetryConnect", "true");
        System.setProperty("jdk.httpclient.redirects.retrylimit", "1");
        kept = client();
        Thread watcher = new Thread(Caller::watch);
        watcher.setDaemon(true);
        watcher.start();
        HttpServer control = HttpServer.create(new InetSocketAddress("127.0.0.1", Integer.parseInt(args[0])), 16);
        control.setExecutor(Executors.newCachedThreadPool());
        control.createContext("/call", exchange -> {
            Map<String, String> q = new HashMap<>();
            for (String part : exchange.getRequestURI().getQuery().split("&")) q.put(part.split("=")[0], part.split("=")[1]);
            URI to = URI.create("http://" + q.getOrDefault("host", "127.0.0.1") + ":" + q.get("port") + "/who");
            int status = 0, timeout = Integer.parseInt(q.get("timeout"));
            String error = "";
            lag(true);
            long begin = System.nanoTime();
            try {
                status = old ? byUrl(to, timeout, q.containsKey("keep")) : byClient(to, timeout, q.containsKey("keep"));
            } catch (Exception e) {
                error = name(e);
            }
            double ms = (System.nanoTime() - begin) / 1e6;
            byte[] body = String.format(Locale.ROOT, "{\"status\": %d, \"error\": \"%s\", \"ms\": %f, \"lag\": %f}", status,
                error.replace('"', '\'').replace('\\', '/'), ms, lag(false)).getBytes();
            exchange.sendResponseHeaders(200, body.length);
            exchange.getResponseBody().write(body);
            exchange.close();
        });
        control.start();
    }
}
