# The AWS SDK for Ruby: context, data key, tags, errors as classes, pages. Prints one line.
require "aws-sdk-kms"

def assert(holds, what)
  raise what unless holds
end

kms = Aws::KMS::Client.new(endpoint: ENV.fetch("AWS_ENDPOINT_URL_KMS")) # older versions read no variable for it
key = kms.create_key(description: "from Ruby").key_metadata
context = { "purpose" => "test" }
sealed = kms.encrypt(key_id: key.arn, plaintext: "plain", encryption_context: context)
opened = kms.decrypt(ciphertext_blob: sealed.ciphertext_blob, encryption_context: context)
assert([opened.plaintext, opened.key_id] == ["plain", key.arn], "decrypted")
begin
  kms.decrypt(ciphertext_blob: sealed.ciphertext_blob)
  raise "it was decrypted without its context"
rescue Aws::KMS::Errors::InvalidCiphertextException => e
  assert(e.code == "InvalidCiphertextException", "status")
end

data = kms.generate_data_key(key_id: key.key_id, key_spec: "AES_256")
again = kms.decrypt(ciphertext_blob: data.ciphertext_blob)
assert(again.plaintext == data.plaintext && data.plaintext.bytesize == 32, "data key")
kms.tag_resource(key_id: key.key_id, tags: [{ tag_key: "team", tag_value: "payments" }])
assert(kms.list_resource_tags(key_id: key.key_id).tags.map(&:tag_value) == ["payments"], "tags")

listed = kms.list_keys(limit: 1).each_page.flat_map { |page| page.keys.map(&:key_id) }
assert(listed.include?(ENV.fetch("KEY_ID")) && listed.include?(key.key_id), "listed")
puts "the story holds"
