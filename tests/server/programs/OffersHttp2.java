// Java's own HTTP client, which offers HTTP/2 with each request: URL, body, then names and values of headers.
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;

public class OffersHttp2 {
    public static void main(String[] told) throws Exception {
        HttpRequest.Builder asked = HttpRequest.newBuilder(URI.create(told[0]));
        asked.POST(HttpRequest.BodyPublishers.ofString(told[1]));
        for (int at = 2; at < told.length; at += 2) {
            asked.header(told[at], told[at + 1]);
        }
        HttpClient client = HttpClient.newHttpClient();
        for (int time = 0; time < 2; time++) {
            HttpResponse<String> answer = client.send(asked.build(), HttpResponse.BodyHandlers.ofString());
            System.out.println(answer.statusCode() + " " + answer.version() + " " + answer.body());
        }
    }
}
