// The AWS SDK for Go 1: context, errors by code, pages, a signature that crypto/ecdsa verifies. Prints one line.
package main

import (
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"os"

	"github.com/aws/aws-sdk-go/aws"
	"github.com/aws/aws-sdk-go/aws/awserr"
	"github.com/aws/aws-sdk-go/aws/session"
	"github.com/aws/aws-sdk-go/service/kms"
)

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func assert(holds bool, what string) {
	if !holds {
		panic(what)
	}
}

func main() {
	// Region and credentials are in the environment; it reads no variable for the endpoint.
	client := kms.New(session.Must(session.NewSession(&aws.Config{Endpoint: aws.String(os.Getenv("AWS_ENDPOINT_URL_KMS"))})))
	context := map[string]*string{"purpose": aws.String("test")}
	made, err := client.CreateKey(&kms.CreateKeyInput{Description: aws.String("from Go")})
	must(err)
	sealed, err := client.Encrypt(&kms.EncryptInput{KeyId: made.KeyMetadata.Arn, Plaintext: []byte("plain"), EncryptionContext: context})
	must(err)
	opened, err := client.Decrypt(&kms.DecryptInput{CiphertextBlob: sealed.CiphertextBlob, EncryptionContext: context})
	must(err)
	assert(string(opened.Plaintext) == "plain" && *opened.KeyId == *made.KeyMetadata.Arn, "decrypted")
	_, err = client.Decrypt(&kms.DecryptInput{CiphertextBlob: sealed.CiphertextBlob})
	refused, ok := err.(awserr.RequestFailure)
	assert(ok && refused.Code() == kms.ErrCodeInvalidCiphertextException && refused.RequestID() != "", "refused")

	key := aws.String(os.Getenv("KEY_ID"))
	signed, err := client.Sign(&kms.SignInput{KeyId: key, Message: []byte("message"), SigningAlgorithm: aws.String("ECDSA_SHA_256")})
	must(err)
	public, err := client.GetPublicKey(&kms.GetPublicKeyInput{KeyId: key})
	must(err)
	parsed, err := x509.ParsePKIXPublicKey(public.PublicKey)
	must(err)
	digest := sha256.Sum256([]byte("message"))
	assert(ecdsa.VerifyASN1(parsed.(*ecdsa.PublicKey), digest[:], signed.Signature), "verified")

	found := map[string]bool{}
	must(client.ListKeysPages(&kms.ListKeysInput{Limit: aws.Int64(1)}, func(page *kms.ListKeysOutput, last bool) bool {
		for _, each := range page.Keys {
			found[*each.KeyId] = true
		}
		return true
	}))
	assert(found[*key] && found[*made.KeyMetadata.KeyId], "listed")
	fmt.Println("the story holds")
}
