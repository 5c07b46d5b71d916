// Java's own HTTP client over plain HTTP, signing by itself: HTTP/2 is offered, one connection does it all.
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.time.ZoneOffset;
import java.time.ZonedDateTime;
import java.time.format.DateTimeFormatter;
import java.util.Base64;
import java.util.HexFormat;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import javax.crypto.Mac;
import javax.crypto.spec.SecretKeySpec;

public class HttpClientStory {
    static final HttpClient CLIENT = HttpClient.newHttpClient();
    static final URI ENDPOINT = URI.create(System.getenv("AWS_ENDPOINT_URL_KMS") + "/");

    static byte[] mac(byte[] key, String text) throws Exception {
        Mac mac = Mac.getInstance("HmacSHA256");
        mac.init(new SecretKeySpec(key, "HmacSHA256"));
        return mac.doFinal(text.getBytes(StandardCharsets.UTF_8));
    }

    static String hash(String text) throws Exception {
        byte[] digest = MessageDigest.getInstance("SHA-256").digest(text.getBytes(StandardCharsets.UTF_8));
        return HexFormat.of().formatHex(digest);
    }

    static HttpResponse<String> call(String operation, String body) throws Exception {
        String time = DateTimeFormatter.ofPattern("yyyyMMdd'T'HHmmss'Z'").format(ZonedDateTime.now(ZoneOffset.UTC));
        String scope = time.substring(0, 8) + "/" + System.getenv("AWS_REGION") + "/kms/aws4_request";
        String target = "TrentService." + operation;
        String names = "host;x-amz-date;x-amz-target";
        String canonical = "POST\n/\n\nhost:" + ENDPOINT.getAuthority() + "\nx-amz-date:" + time + "\nx-amz-target:"
                + target + "\n\n" + names + "\n" + hash(body);
        byte[] key = ("AWS4" + System.getenv("AWS_SECRET_ACCESS_KEY")).getBytes(StandardCharsets.UTF_8);
        for (String part : scope.split("/")) {
            key = mac(key, part);
        }
        byte[] signature = mac(key, "AWS4-HMAC-SHA256\n" + time + "\n" + scope + "\n" + hash(canonical));
        HttpRequest request = HttpRequest.newBuilder(ENDPOINT)
                .POST(HttpRequest.BodyPublishers.ofString(body))
                .header("Content-Type", "application/x-amz-json-1.1")
                .header("X-Amz-Date", time)
                .header("X-Amz-Target", target)
                .header("Authorization", "AWS4-HMAC-SHA256 Credential=" + System.getenv("AWS_ACCESS_KEY_ID") + "/" + scope
                        + ", SignedHeaders=" + names + ", Signature=" + HexFormat.of().formatHex(signature))
                .build();
        return CLIENT.send(request, HttpResponse.BodyHandlers.ofString());
    }

    static String member(HttpResponse<String> answer, String name) {
        Matcher found = Pattern.compile("\"" + name + "\":\"([^\"]*)\"").matcher(answer.body());
        if (answer.statusCode() != 200 || !found.find()) {
            throw new AssertionError(answer.statusCode() + " " + answer.body());
        }
        return found.group(1);
    }

    public static void main(String[] none) throws Exception {
        String plain = Base64.getEncoder().encodeToString("plain".getBytes(StandardCharsets.UTF_8));
        for (int time = 0; time < 20; time++) {
            String key = "{\"KeyId\":\"" + System.getenv("KEY_ID") + "\",\"Plaintext\":\"" + plain + "\"}";
            String sealed = member(call("Encrypt", key), "CiphertextBlob");
            if (!member(call("Decrypt", "{\"CiphertextBlob\":\"" + sealed + "\"}"), "Plaintext").equals(plain)) {
                throw new AssertionError("decrypted");
            }
        }
        HttpResponse<String> refused = call("Decrypt", "{\"CiphertextBlob\":\"" + plain + "\"}");
        if (refused.statusCode() != 400 || !refused.body().contains("InvalidCiphertextException")) {
            throw new AssertionError(refused.body());
        }
        System.out.println("the story holds");
    }
}
