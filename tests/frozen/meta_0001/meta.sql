BEGIN TRANSACTION;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('meta_0001');
CREATE TABLE alias (
	region TEXT NOT NULL, 
	name TEXT NOT NULL, 
	key_id TEXT NOT NULL, 
	creation_date INTEGER NOT NULL, 
	last_updated_date INTEGER NOT NULL, 
	CONSTRAINT pk_alias PRIMARY KEY (region, name), 
	CONSTRAINT fk_alias_key_id FOREIGN KEY(key_id, region) REFERENCES regional_key (key_id, region)
);
INSERT INTO "alias" VALUES('eu-central-1','alias/frozen','b35a26b2-bf3f-4296-b667-904b56dc3ad5',1795686262234929,1795686262234929);
CREATE TABLE change_log (
	epoch INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	region TEXT NOT NULL, 
	subject TEXT NOT NULL
);
INSERT INTO "change_log" VALUES(1,'eu-central-1','b35a26b2-bf3f-4296-b667-904b56dc3ad5');
INSERT INTO "change_log" VALUES(2,'eu-central-1','b35a26b2-bf3f-4296-b667-904b56dc3ad5');
INSERT INTO "change_log" VALUES(3,'eu-central-1','alias/frozen');
INSERT INTO "change_log" VALUES(4,'eu-central-1','4b38912a-f374-4058-9edf-69f2a0056dad');
INSERT INTO "change_log" VALUES(5,'eu-central-1','4b38912a-f374-4058-9edf-69f2a0056dad');
INSERT INTO "change_log" VALUES(6,'eu-central-1','4b38912a-f374-4058-9edf-69f2a0056dad');
CREATE TABLE installation (
	only INTEGER NOT NULL, 
	id TEXT NOT NULL, 
	account TEXT NOT NULL, 
	created_at INTEGER NOT NULL, 
	restored_at INTEGER, 
	CONSTRAINT pk_installation PRIMARY KEY (only), 
	CONSTRAINT ck_installation_only CHECK (only = 1)
);
INSERT INTO "installation" VALUES(1,'cf64f075c7ec497aa7aff6d50273812c','111122223333',1795686256959642,NULL);
CREATE TABLE installation_key (
	purpose TEXT NOT NULL, 
	version INTEGER NOT NULL, 
	token_id TEXT NOT NULL, 
	cka_id BLOB NOT NULL, 
	created_at INTEGER NOT NULL, 
	CONSTRAINT pk_installation_key PRIMARY KEY (purpose, version, token_id), 
	CONSTRAINT fk_installation_key_token_id FOREIGN KEY(token_id) REFERENCES token (id), 
	CONSTRAINT ck_installation_key_cka_id CHECK (length(cka_id) = 16)
);
INSERT INTO "installation_key" VALUES('mac',1,'63ffed99-5d09-4e74-bbf8-c9656972db2c',X'81EAAAF5CE5744E0A77B0982FE9D1259',1795686256966350);
CREATE TABLE "key" (
	key_id TEXT NOT NULL, 
	spec TEXT NOT NULL, 
	usage TEXT NOT NULL, 
	origin TEXT NOT NULL, 
	manager TEXT NOT NULL, 
	multi_region BOOLEAN NOT NULL, 
	creation_date INTEGER NOT NULL, 
	CONSTRAINT pk_key PRIMARY KEY (key_id), 
	CONSTRAINT ck_key_spec CHECK (spec IN ('RSA_2048', 'RSA_3072', 'RSA_4096', 'ECC_NIST_P256', 'ECC_NIST_P384', 'ECC_NIST_P521', 'ECC_SECG_P256K1', 'SYMMETRIC_DEFAULT', 'HMAC_224', 'HMAC_256', 'HMAC_384', 'HMAC_512', 'ML_DSA_44', 'ML_DSA_65', 'ML_DSA_87', 'ECC_NIST_EDWARDS25519', 'ML_KEM_512', 'ML_KEM_768', 'ML_KEM_1024')), 
	CONSTRAINT ck_key_usage CHECK (usage IN ('SIGN_VERIFY', 'ENCRYPT_DECRYPT', 'GENERATE_VERIFY_MAC', 'KEY_AGREEMENT', 'ENCAPSULATE_DECAPSULATE')), 
	CONSTRAINT ck_key_origin CHECK (origin IN ('AWS_KMS', 'EXTERNAL', 'AWS_CLOUDHSM', 'EXTERNAL_KEY_STORE')), 
	CONSTRAINT ck_key_manager CHECK (manager IN ('AWS', 'CUSTOMER'))
);
INSERT INTO "key" VALUES('b35a26b2-bf3f-4296-b667-904b56dc3ad5','SYMMETRIC_DEFAULT','ENCRYPT_DECRYPT','AWS_KMS','CUSTOMER',0,1795686259817848);
INSERT INTO "key" VALUES('4b38912a-f374-4058-9edf-69f2a0056dad','SYMMETRIC_DEFAULT','ENCRYPT_DECRYPT','AWS_KMS','CUSTOMER',0,1795686272069239);
CREATE TABLE material (
	id INTEGER NOT NULL, 
	key_id TEXT NOT NULL, 
	material_id TEXT NOT NULL, 
	sequence INTEGER NOT NULL, 
	state TEXT NOT NULL, 
	created_at INTEGER NOT NULL, 
	rotation_date INTEGER, 
	rotation_type TEXT, 
	CONSTRAINT pk_material PRIMARY KEY (id), 
	CONSTRAINT fk_material_key_id FOREIGN KEY(key_id) REFERENCES "key" (key_id), 
	CONSTRAINT uq_material_material_id UNIQUE (material_id), 
	CONSTRAINT uq_material_key_id UNIQUE (key_id, sequence), 
	CONSTRAINT ck_material_sequence CHECK (sequence >= 1), 
	CONSTRAINT ck_material_state CHECK (state IN ('NON_CURRENT', 'CURRENT', 'PENDING_ROTATION', 'PENDING_MULTI_REGION_IMPORT_AND_ROTATION')), 
	CONSTRAINT ck_material_rotation_type CHECK (rotation_type IN ('AUTOMATIC', 'ON_DEMAND'))
);
INSERT INTO "material" VALUES(1,'b35a26b2-bf3f-4296-b667-904b56dc3ad5','6360097dc42fbec81f80cfaa796f780569e1fbb865452b5570381412c09c83ef',1,'CURRENT',1795686259817848,NULL,NULL);
INSERT INTO "material" VALUES(2,'4b38912a-f374-4058-9edf-69f2a0056dad','2a13ef5c2da0cbebbbb2a50e8ab2b3be3a5437b4806ba2c03c2c242d7815ba06',1,'CURRENT',1795686272069239,NULL,NULL);
CREATE TABLE material_presence (
	key_id TEXT NOT NULL, 
	region TEXT NOT NULL, 
	material INTEGER NOT NULL, 
	present BOOLEAN NOT NULL, 
	expiration_model TEXT, 
	valid_to INTEGER, 
	CONSTRAINT pk_material_presence PRIMARY KEY (key_id, region, material), 
	CONSTRAINT fk_material_presence_key_id FOREIGN KEY(key_id, region) REFERENCES regional_key (key_id, region), 
	CONSTRAINT fk_material_presence_material FOREIGN KEY(material) REFERENCES material (id), 
	CONSTRAINT ck_material_presence_expiration_model CHECK (expiration_model IN ('KEY_MATERIAL_EXPIRES', 'KEY_MATERIAL_DOES_NOT_EXPIRE'))
);
INSERT INTO "material_presence" VALUES('b35a26b2-bf3f-4296-b667-904b56dc3ad5','eu-central-1',1,1,NULL,NULL);
INSERT INTO "material_presence" VALUES('4b38912a-f374-4058-9edf-69f2a0056dad','eu-central-1',2,1,NULL,NULL);
CREATE TABLE orphan (
	token_id TEXT NOT NULL, 
	cka_id BLOB NOT NULL, 
	first_seen INTEGER NOT NULL, 
	CONSTRAINT pk_orphan PRIMARY KEY (token_id, cka_id), 
	CONSTRAINT fk_orphan_token_id FOREIGN KEY(token_id) REFERENCES token (id)
);
CREATE TABLE regional_key (
	key_id TEXT NOT NULL, 
	region TEXT NOT NULL, 
	lifecycle TEXT NOT NULL, 
	state TEXT NOT NULL, 
	description TEXT NOT NULL, 
	policy TEXT NOT NULL, 
	creation_date INTEGER NOT NULL, 
	deletion_date INTEGER, 
	pending_window_days INTEGER, 
	version INTEGER NOT NULL, 
	CONSTRAINT pk_regional_key PRIMARY KEY (key_id, region), 
	CONSTRAINT fk_regional_key_key_id FOREIGN KEY(key_id) REFERENCES "key" (key_id), 
	CONSTRAINT ck_regional_key_lifecycle CHECK (lifecycle IN ('INTENDED', 'LIVE', 'DELETED')), 
	CONSTRAINT ck_regional_key_state CHECK (state IN ('Creating', 'Enabled', 'Disabled', 'PendingDeletion', 'PendingImport', 'PendingReplicaDeletion', 'Unavailable', 'Updating'))
);
INSERT INTO "regional_key" VALUES('b35a26b2-bf3f-4296-b667-904b56dc3ad5','eu-central-1','LIVE','Enabled','frozen','{"Version":"2012-10-17","Id":"key-default-1","Statement":[{"Sid":"Enable IAM User Permissions","Effect":"Allow","Principal":{"AWS":"arn:aws:iam::111122223333:root"},"Action":"kms:*","Resource":"*"}]}',1795686259817848,NULL,NULL,2);
INSERT INTO "regional_key" VALUES('4b38912a-f374-4058-9edf-69f2a0056dad','eu-central-1','LIVE','Disabled','','{"Version":"2012-10-17","Id":"key-default-1","Statement":[{"Sid":"Enable IAM User Permissions","Effect":"Allow","Principal":{"AWS":"arn:aws:iam::111122223333:root"},"Action":"kms:*","Resource":"*"}]}',1795686272069239,NULL,NULL,6);
CREATE TABLE tag (
	key_id TEXT NOT NULL, 
	region TEXT NOT NULL, 
	tag_key TEXT NOT NULL, 
	tag_value TEXT NOT NULL, 
	CONSTRAINT pk_tag PRIMARY KEY (key_id, region, tag_key), 
	CONSTRAINT fk_tag_key_id FOREIGN KEY(key_id, region) REFERENCES regional_key (key_id, region)
);
INSERT INTO "tag" VALUES('b35a26b2-bf3f-4296-b667-904b56dc3ad5','eu-central-1','made','then');
CREATE TABLE token (
	id TEXT NOT NULL, 
	label TEXT NOT NULL, 
	serial TEXT NOT NULL, 
	manufacturer TEXT NOT NULL, 
	model TEXT NOT NULL, 
	created_at INTEGER NOT NULL, 
	challenge BLOB, 
	response BLOB, 
	CONSTRAINT pk_token PRIMARY KEY (id), 
	CONSTRAINT ck_token_bound CHECK ((challenge IS NULL) = (response IS NULL))
);
INSERT INTO "token" VALUES('63ffed99-5d09-4e74-bbf8-c9656972db2c','hsmkms','1ef58856ae3c34b6','SoftHSM project','SoftHSM v2',1795686256960843,X'02BE7F2832259BC96408253A4AA12CA2E5E0773137CF27B8904F68865CA19330',X'99BD9216311A69BAABD2183E94CAAE9A3EC872612B060634A4A7755ACA237460');
CREATE TABLE token_object (
	token_id TEXT NOT NULL, 
	cka_id BLOB NOT NULL, 
	material INTEGER, 
	purpose TEXT NOT NULL, 
	status TEXT NOT NULL, 
	label TEXT NOT NULL, 
	created_at INTEGER NOT NULL, 
	CONSTRAINT pk_token_object PRIMARY KEY (token_id, cka_id), 
	CONSTRAINT fk_token_object_token_id FOREIGN KEY(token_id) REFERENCES token (id), 
	CONSTRAINT fk_token_object_material FOREIGN KEY(material) REFERENCES material (id), 
	CONSTRAINT ck_token_object_cka_id CHECK (length(cka_id) = 16), 
	CONSTRAINT ck_token_object_purpose CHECK (purpose IN ('BACKING_KEY', 'WRAPPING_KEY')), 
	CONSTRAINT ck_token_object_status CHECK (status IN ('INTENDED', 'PRESENT', 'DESTROYING', 'DESTROYED'))
);
INSERT INTO "token_object" VALUES('63ffed99-5d09-4e74-bbf8-c9656972db2c',X'561292BFD6784B27842CCA376FA5F4DA',1,'BACKING_KEY','PRESENT','hsmkms/cf64f075/eu-central-1/b35a26b2-bf3f-4296-b667-904b56dc3ad5/1',1795686259817848);
INSERT INTO "token_object" VALUES('63ffed99-5d09-4e74-bbf8-c9656972db2c',X'D2C9687ECA8E47368C0158B62D53CA08',2,'BACKING_KEY','PRESENT','hsmkms/cf64f075/eu-central-1/4b38912a-f374-4058-9edf-69f2a0056dad/1',1795686272069239);
CREATE INDEX ix_regional_key_region ON regional_key (region, key_id);
CREATE INDEX ix_token_object_material ON token_object (material);
CREATE INDEX ix_alias_key_id ON alias (key_id, region);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('change_log',6);
COMMIT;
