// The AWS SDK for Java 1: context, data key, errors as classes, a signature that java.security verifies.
import com.amazonaws.client.builder.AwsClientBuilder.EndpointConfiguration;
import com.amazonaws.services.kms.AWSKMS;
import com.amazonaws.services.kms.AWSKMSClientBuilder;
import com.amazonaws.services.kms.model.CreateKeyRequest;
import com.amazonaws.services.kms.model.DecryptRequest;
import com.amazonaws.services.kms.model.EncryptRequest;
import com.amazonaws.services.kms.model.GenerateDataKeyRequest;
import com.amazonaws.services.kms.model.GetPublicKeyRequest;
import com.amazonaws.services.kms.model.InvalidCiphertextException;
import com.amazonaws.services.kms.model.SignRequest;
import java.nio.ByteBuffer;
import java.security.KeyFactory;
import java.security.PublicKey;
import java.security.Signature;
import java.security.spec.X509EncodedKeySpec;
import java.util.Map;

public class JavaSdk1 {
    static void check(boolean holds, String what) {
        if (!holds) {
            throw new AssertionError(what);
        }
    }

    static byte[] bytes(ByteBuffer buffer) {
        byte[] copied = new byte[buffer.remaining()];
        buffer.duplicate().get(copied);
        return copied;
    }

    public static void main(String[] none) throws Exception {
        EndpointConfiguration endpoint =
                new EndpointConfiguration(System.getenv("AWS_ENDPOINT_URL_KMS"), System.getenv("AWS_REGION"));
        AWSKMS kms = AWSKMSClientBuilder.standard().withEndpointConfiguration(endpoint).build();
        Map<String, String> context = Map.of("purpose", "test");
        ByteBuffer plain = ByteBuffer.wrap("plain".getBytes());
        String key = kms.createKey(new CreateKeyRequest().withDescription("from Java")).getKeyMetadata().getArn();
        ByteBuffer sealed = kms.encrypt(
                new EncryptRequest().withKeyId(key).withPlaintext(plain).withEncryptionContext(context)).getCiphertextBlob();
        DecryptRequest open = new DecryptRequest().withCiphertextBlob(sealed);
        try {
            kms.decrypt(open);
            throw new AssertionError("it was decrypted without its context");
        } catch (InvalidCiphertextException refused) {
            check(refused.getStatusCode() == 400 && refused.getRequestId() != null, "refused");
        }
        check(new String(bytes(kms.decrypt(open.withEncryptionContext(context)).getPlaintext())).equals("plain"), "decrypted");
        check(bytes(kms.generateDataKey(new GenerateDataKeyRequest().withKeyId(key).withKeySpec("AES_256")).getPlaintext())
                .length == 32, "data key");

        String signer = System.getenv("KEY_ID");
        ByteBuffer message = ByteBuffer.wrap("message".getBytes());
        byte[] signature = bytes(kms.sign(new SignRequest().withKeyId(signer).withMessage(message)
                .withSigningAlgorithm("ECDSA_SHA_256")).getSignature());
        byte[] encoded = bytes(kms.getPublicKey(new GetPublicKeyRequest().withKeyId(signer)).getPublicKey());
        PublicKey known = KeyFactory.getInstance("EC").generatePublic(new X509EncodedKeySpec(encoded));
        Signature verifier = Signature.getInstance("SHA256withECDSA");
        verifier.initVerify(known);
        verifier.update("message".getBytes());
        check(verifier.verify(signature), "verified");
        System.out.println("the story holds");
    }
}
