BEGIN TRANSACTION;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('meta_0002');
CREATE TABLE alias (
	region TEXT NOT NULL, 
	name TEXT NOT NULL, 
	key_id TEXT NOT NULL, 
	creation_date INTEGER NOT NULL, 
	last_updated_date INTEGER NOT NULL, 
	CONSTRAINT pk_alias PRIMARY KEY (region, name), 
	CONSTRAINT fk_alias_key_id FOREIGN KEY(key_id, region) REFERENCES regional_key (key_id, region)
);
INSERT INTO "alias" VALUES('eu-central-1','alias/frozen','6ddfed40-d706-4c7f-8142-e21e8b692942',1795686523550647,1795686523550647);
CREATE TABLE change_log (
	epoch INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	region TEXT NOT NULL, 
	subject TEXT NOT NULL
);
INSERT INTO "change_log" VALUES(1,'eu-central-1','6ddfed40-d706-4c7f-8142-e21e8b692942');
INSERT INTO "change_log" VALUES(2,'eu-central-1','6ddfed40-d706-4c7f-8142-e21e8b692942');
INSERT INTO "change_log" VALUES(3,'eu-central-1','alias/frozen');
INSERT INTO "change_log" VALUES(4,'eu-central-1','6ddfed40-d706-4c7f-8142-e21e8b692942');
INSERT INTO "change_log" VALUES(5,'eu-central-1','6ddfed40-d706-4c7f-8142-e21e8b692942');
INSERT INTO "change_log" VALUES(6,'eu-central-1','f92c9576-353e-4f6e-aebf-cf083545b32e');
INSERT INTO "change_log" VALUES(7,'eu-central-1','f92c9576-353e-4f6e-aebf-cf083545b32e');
INSERT INTO "change_log" VALUES(8,'eu-central-1','c417206c-22fa-478d-abc4-0c03c9d711d2');
INSERT INTO "change_log" VALUES(9,'eu-central-1','c417206c-22fa-478d-abc4-0c03c9d711d2');
INSERT INTO "change_log" VALUES(10,'eu-central-1','c417206c-22fa-478d-abc4-0c03c9d711d2');
CREATE TABLE installation (
	only INTEGER NOT NULL, 
	id TEXT NOT NULL, 
	account TEXT NOT NULL, 
	created_at INTEGER NOT NULL, 
	restored_at INTEGER, 
	CONSTRAINT pk_installation PRIMARY KEY (only), 
	CONSTRAINT ck_installation_only CHECK (only = 1)
);
INSERT INTO "installation" VALUES(1,'8e462e1f17824be4a65751568fb6ddbd','111122223333',1795686522560087,NULL);
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
INSERT INTO "installation_key" VALUES('mac',1,'f2ba4ced-c14a-4460-9523-0297754c5963',X'827C23B3F2E843FF8CFF3186BCB666EB',1795686522562269);
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
INSERT INTO "key" VALUES('6ddfed40-d706-4c7f-8142-e21e8b692942','SYMMETRIC_DEFAULT','ENCRYPT_DECRYPT','AWS_KMS','CUSTOMER',0,1795686523060751);
INSERT INTO "key" VALUES('f92c9576-353e-4f6e-aebf-cf083545b32e','SYMMETRIC_DEFAULT','ENCRYPT_DECRYPT','EXTERNAL','CUSTOMER',0,1795686525559379);
INSERT INTO "key" VALUES('c417206c-22fa-478d-abc4-0c03c9d711d2','SYMMETRIC_DEFAULT','ENCRYPT_DECRYPT','AWS_KMS','CUSTOMER',0,1795686526030324);
CREATE TABLE material (
	id INTEGER NOT NULL, 
	key_id TEXT NOT NULL, 
	material_id TEXT NOT NULL, 
	sequence INTEGER NOT NULL, 
	state TEXT NOT NULL, 
	created_at INTEGER NOT NULL, 
	rotation_date INTEGER, 
	rotation_type TEXT, description TEXT, host_unwrapped BOOLEAN DEFAULT '0' NOT NULL, 
	CONSTRAINT pk_material PRIMARY KEY (id), 
	CONSTRAINT fk_material_key_id FOREIGN KEY(key_id) REFERENCES "key" (key_id), 
	CONSTRAINT uq_material_material_id UNIQUE (material_id), 
	CONSTRAINT uq_material_key_id UNIQUE (key_id, sequence), 
	CONSTRAINT ck_material_sequence CHECK (sequence >= 1), 
	CONSTRAINT ck_material_state CHECK (state IN ('NON_CURRENT', 'CURRENT', 'PENDING_ROTATION', 'PENDING_MULTI_REGION_IMPORT_AND_ROTATION')), 
	CONSTRAINT ck_material_rotation_type CHECK (rotation_type IN ('AUTOMATIC', 'ON_DEMAND'))
);
INSERT INTO "material" VALUES(1,'6ddfed40-d706-4c7f-8142-e21e8b692942','2f6ddaa1021561c9069a008a82edc68649c0d4b7c00941917c31efb5904ef8fb',1,'NON_CURRENT',1795686523060780,NULL,NULL,NULL,0);
INSERT INTO "material" VALUES(2,'6ddfed40-d706-4c7f-8142-e21e8b692942','0bca93d3e3b7bb1c60c1524424179a4d2fa148ae0667b288c9b72c4a5cfca588',2,'CURRENT',1795686524532360,1795686524540296,'ON_DEMAND',NULL,0);
INSERT INTO "material" VALUES(3,'c417206c-22fa-478d-abc4-0c03c9d711d2','99aa5c6b2ebf50366cedd7c52e6e7a0063df563893b0441317ec763e911466aa',1,'CURRENT',1795686526030395,NULL,NULL,NULL,0);
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
INSERT INTO "material_presence" VALUES('6ddfed40-d706-4c7f-8142-e21e8b692942','eu-central-1',1,1,NULL,NULL);
INSERT INTO "material_presence" VALUES('6ddfed40-d706-4c7f-8142-e21e8b692942','eu-central-1',2,1,NULL,NULL);
INSERT INTO "material_presence" VALUES('c417206c-22fa-478d-abc4-0c03c9d711d2','eu-central-1',3,1,NULL,NULL);
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
INSERT INTO "regional_key" VALUES('6ddfed40-d706-4c7f-8142-e21e8b692942','eu-central-1','LIVE','Enabled','frozen','{"Version":"2012-10-17","Id":"key-default-1","Statement":[{"Sid":"Enable IAM User Permissions","Effect":"Allow","Principal":{"AWS":"arn:aws:iam::111122223333:root"},"Action":"kms:*","Resource":"*"}]}',1795686523060751,NULL,NULL,5);
INSERT INTO "regional_key" VALUES('f92c9576-353e-4f6e-aebf-cf083545b32e','eu-central-1','LIVE','PendingImport','','{"Version":"2012-10-17","Id":"key-default-1","Statement":[{"Sid":"Enable IAM User Permissions","Effect":"Allow","Principal":{"AWS":"arn:aws:iam::111122223333:root"},"Action":"kms:*","Resource":"*"}]}',1795686525559379,NULL,NULL,7);
INSERT INTO "regional_key" VALUES('c417206c-22fa-478d-abc4-0c03c9d711d2','eu-central-1','LIVE','Disabled','','{"Version":"2012-10-17","Id":"key-default-1","Statement":[{"Sid":"Enable IAM User Permissions","Effect":"Allow","Principal":{"AWS":"arn:aws:iam::111122223333:root"},"Action":"kms:*","Resource":"*"}]}',1795686526030324,NULL,NULL,10);
CREATE TABLE rotation (
	key_id TEXT NOT NULL, 
	anchor INTEGER NOT NULL, 
	period_days INTEGER, 
	CONSTRAINT pk_rotation PRIMARY KEY (key_id), 
	CONSTRAINT fk_rotation_key_id FOREIGN KEY(key_id) REFERENCES "key" (key_id), 
	CONSTRAINT ck_rotation_period_days CHECK (period_days > 0)
);
CREATE TABLE tag (
	key_id TEXT NOT NULL, 
	region TEXT NOT NULL, 
	tag_key TEXT NOT NULL, 
	tag_value TEXT NOT NULL, 
	CONSTRAINT pk_tag PRIMARY KEY (key_id, region, tag_key), 
	CONSTRAINT fk_tag_key_id FOREIGN KEY(key_id, region) REFERENCES regional_key (key_id, region)
);
INSERT INTO "tag" VALUES('6ddfed40-d706-4c7f-8142-e21e8b692942','eu-central-1','made','then');
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
INSERT INTO "token" VALUES('f2ba4ced-c14a-4460-9523-0297754c5963','hsmkms','8cc94bdf25b5459f','SoftHSM project','SoftHSM v2',1795686522561131,X'B4AB345A979F5C41614D36F3CF91EBB902F84FD3FB4C1BD9DA9B669DE3D34422',X'193349AF2158BE0A9B8DECE23D295E97CFD601B80D625DFF6A995EC7AE38A630');
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
INSERT INTO "token_object" VALUES('f2ba4ced-c14a-4460-9523-0297754c5963',X'BF6D0C03C4C34AAFB06BB073341D17BB',1,'BACKING_KEY','PRESENT','hsmkms/8e462e1f/eu-central-1/6ddfed40-d706-4c7f-8142-e21e8b692942/1',1795686523060780);
INSERT INTO "token_object" VALUES('f2ba4ced-c14a-4460-9523-0297754c5963',X'DFD5B19CDB134707A391D3831008AFF2',2,'BACKING_KEY','PRESENT','hsmkms/8e462e1f/eu-central-1/6ddfed40-d706-4c7f-8142-e21e8b692942/2',1795686524532360);
INSERT INTO "token_object" VALUES('f2ba4ced-c14a-4460-9523-0297754c5963',X'A96228D84DAB428FA8467A01BBD4B8A1',3,'BACKING_KEY','PRESENT','hsmkms/8e462e1f/eu-central-1/c417206c-22fa-478d-abc4-0c03c9d711d2/1',1795686526030395);
CREATE TABLE wrapping_key (
	token_id TEXT NOT NULL, 
	cka_id BLOB NOT NULL, 
	key_id TEXT NOT NULL, 
	region TEXT NOT NULL, 
	valid_to INTEGER NOT NULL, 
	used_at INTEGER, 
	CONSTRAINT pk_wrapping_key PRIMARY KEY (token_id, cka_id), 
	CONSTRAINT fk_wrapping_key_token_id FOREIGN KEY(token_id, cka_id) REFERENCES token_object (token_id, cka_id), 
	CONSTRAINT fk_wrapping_key_key_id FOREIGN KEY(key_id, region) REFERENCES regional_key (key_id, region)
);
CREATE INDEX ix_regional_key_region ON regional_key (region, key_id);
CREATE INDEX ix_token_object_material ON token_object (material);
CREATE INDEX ix_alias_key_id ON alias (key_id, region);
CREATE INDEX ix_wrapping_key_key_id ON wrapping_key (key_id, region);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('change_log',10);
COMMIT;
