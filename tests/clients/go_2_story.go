// The AWS SDK for Go 2: context, errors as types, pages, a signature that crypto/ecdsa verifies. Prints one line.
package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"os"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
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
	ctx := context.Background()
	loaded, err := config.LoadDefaultConfig(ctx) // region and credentials are in the environment
	must(err)
	// Versions before 1.22 read no variable for the endpoint.
	client := kms.NewFromConfig(loaded, kms.WithEndpointResolver(kms.EndpointResolverFromURL(os.Getenv("AWS_ENDPOINT_URL_KMS"))))
	words := map[string]string{"purpose": "test"}
	made, err := client.CreateKey(ctx, &kms.CreateKeyInput{Description: aws.String("from Go")})
	must(err)
	sealed, err := client.Encrypt(ctx, &kms.EncryptInput{KeyId: made.KeyMetadata.Arn, Plaintext: []byte("plain"), EncryptionContext: words})
	must(err)
	opened, err := client.Decrypt(ctx, &kms.DecryptInput{CiphertextBlob: sealed.CiphertextBlob, EncryptionContext: words})
	must(err)
	assert(string(opened.Plaintext) == "plain" && *opened.KeyId == *made.KeyMetadata.Arn, "decrypted")
	_, err = client.Decrypt(ctx, &kms.DecryptInput{CiphertextBlob: sealed.CiphertextBlob})
	var refused *types.InvalidCiphertextException
	assert(errors.As(err, &refused), "refused")
	_, err = client.DescribeKey(ctx, &kms.DescribeKeyInput{KeyId: aws.String("alias/nobody")})
	var unknown *types.NotFoundException
	assert(errors.As(err, &unknown), "unknown")

	key := aws.String(os.Getenv("KEY_ID"))
	signed, err := client.Sign(ctx, &kms.SignInput{KeyId: key, Message: []byte("message"), SigningAlgorithm: types.SigningAlgorithmSpecEcdsaSha256})
	must(err)
	public, err := client.GetPublicKey(ctx, &kms.GetPublicKeyInput{KeyId: key})
	must(err)
	parsed, err := x509.ParsePKIXPublicKey(public.PublicKey)
	must(err)
	digest := sha256.Sum256([]byte("message"))
	assert(ecdsa.VerifyASN1(parsed.(*ecdsa.PublicKey), digest[:], signed.Signature), "verified")

	found := map[string]bool{}
	for pages := kms.NewListKeysPaginator(client, &kms.ListKeysInput{Limit: aws.Int32(1)}); pages.HasMorePages(); {
		page, err := pages.NextPage(ctx)
		must(err)
		for _, each := range page.Keys {
			found[*each.KeyId] = true
		}
	}
	assert(found[*key] && found[*made.KeyMetadata.KeyId], "listed")
	fmt.Println("the story holds")
}
