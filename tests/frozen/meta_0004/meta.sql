BEGIN TRANSACTION;
CREATE TABLE access_key (
	access_key_id TEXT NOT NULL, 
	user_name TEXT, 
	status TEXT NOT NULL, 
	created_at INTEGER NOT NULL, 
	key_version INTEGER NOT NULL, 
	iv BLOB NOT NULL, 
	sealed BLOB NOT NULL, 
	CONSTRAINT pk_access_key PRIMARY KEY (access_key_id), 
	CONSTRAINT fk_access_key_user_name FOREIGN KEY(user_name) REFERENCES user (name), 
	CONSTRAINT ck_access_key_status CHECK (status IN ('Active', 'Inactive'))
);
INSERT INTO "access_key" VALUES('AKIAR5KBZ227NZFQ5R2T','alice','Active',1795686463174163,1,X'CA4E14B95FD1556442F80FAB',X'23DF9B36B73DF956A0FCD665EFDB9B75A13A8683982D82DAE098C55A947A3264F03755B6917F6773AD90717EF6D2B3771E68630271FCDC34');
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('meta_0004');
CREATE TABLE alias (
	region TEXT NOT NULL, 
	name TEXT NOT NULL, 
	key_id TEXT NOT NULL, 
	creation_date INTEGER NOT NULL, 
	last_updated_date INTEGER NOT NULL, 
	CONSTRAINT pk_alias PRIMARY KEY (region, name), 
	CONSTRAINT fk_alias_key_id FOREIGN KEY(key_id, region) REFERENCES regional_key (key_id, region)
);
INSERT INTO "alias" VALUES('eu-central-1','alias/frozen','73e5df73-9826-4a81-9359-cf864ed9dfb2',1795686447535851,1795686447535851);
CREATE TABLE change_log (
	epoch INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	region TEXT NOT NULL, 
	subject TEXT NOT NULL
);
INSERT INTO "change_log" VALUES(1,'eu-central-1','73e5df73-9826-4a81-9359-cf864ed9dfb2');
INSERT INTO "change_log" VALUES(2,'eu-central-1','73e5df73-9826-4a81-9359-cf864ed9dfb2');
INSERT INTO "change_log" VALUES(3,'eu-central-1','alias/frozen');
INSERT INTO "change_log" VALUES(4,'eu-central-1','73e5df73-9826-4a81-9359-cf864ed9dfb2');
INSERT INTO "change_log" VALUES(5,'eu-central-1','73e5df73-9826-4a81-9359-cf864ed9dfb2');
INSERT INTO "change_log" VALUES(6,'eu-central-1','73e5df73-9826-4a81-9359-cf864ed9dfb2');
INSERT INTO "change_log" VALUES(7,'eu-central-1','2640370e-09ac-421f-a2f9-7cb641b2e033');
INSERT INTO "change_log" VALUES(8,'eu-central-1','2640370e-09ac-421f-a2f9-7cb641b2e033');
INSERT INTO "change_log" VALUES(9,'eu-central-1','2640370e-09ac-421f-a2f9-7cb641b2e033');
INSERT INTO "change_log" VALUES(10,'eu-central-1','2640370e-09ac-421f-a2f9-7cb641b2e033');
INSERT INTO "change_log" VALUES(11,'eu-central-1','2640370e-09ac-421f-a2f9-7cb641b2e033');
INSERT INTO "change_log" VALUES(12,'','AKIAR5KBZ227NZFQ5R2T');
INSERT INTO "change_log" VALUES(13,'eu-central-1','e00766e8-e348-4bb5-962f-9677fef89a04');
INSERT INTO "change_log" VALUES(14,'eu-central-1','e00766e8-e348-4bb5-962f-9677fef89a04');
INSERT INTO "change_log" VALUES(15,'eu-central-1','e00766e8-e348-4bb5-962f-9677fef89a04');
CREATE TABLE group_member (
	group_name TEXT NOT NULL, 
	user_name TEXT NOT NULL, 
	CONSTRAINT pk_group_member PRIMARY KEY (group_name, user_name), 
	CONSTRAINT fk_group_member_group_name FOREIGN KEY(group_name) REFERENCES user_group (name), 
	CONSTRAINT fk_group_member_user_name FOREIGN KEY(user_name) REFERENCES user (name)
);
CREATE TABLE group_policy (
	group_name TEXT NOT NULL, 
	policy_name TEXT NOT NULL, 
	document TEXT NOT NULL, 
	CONSTRAINT pk_group_policy PRIMARY KEY (group_name, policy_name), 
	CONSTRAINT fk_group_policy_group_name FOREIGN KEY(group_name) REFERENCES user_group (name)
);
CREATE TABLE installation (
	only INTEGER NOT NULL, 
	id TEXT NOT NULL, 
	account TEXT NOT NULL, 
	created_at INTEGER NOT NULL, 
	restored_at INTEGER, clock_trusted_at INTEGER, clock_trusted_over INTEGER, 
	CONSTRAINT pk_installation PRIMARY KEY (only), 
	CONSTRAINT ck_installation_only CHECK (only = 1)
);
INSERT INTO "installation" VALUES(1,'37a82f266ff249d5be852b085f86aafb','111122223333',1795686445226270,NULL,NULL,NULL);
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
INSERT INTO "installation_key" VALUES('mac',1,'fbacc445-de2c-43a7-93b7-5ea3e0ab0e49',X'8762E4D16588432C91498C710D986C7D',1795686445228500);
INSERT INTO "installation_key" VALUES('secrets',1,'fbacc445-de2c-43a7-93b7-5ea3e0ab0e49',X'B104E3A8036F464A91912067ADA3E494',1795686463084834);
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
INSERT INTO "key" VALUES('73e5df73-9826-4a81-9359-cf864ed9dfb2','SYMMETRIC_DEFAULT','ENCRYPT_DECRYPT','AWS_KMS','CUSTOMER',0,1795686446522763);
INSERT INTO "key" VALUES('2640370e-09ac-421f-a2f9-7cb641b2e033','SYMMETRIC_DEFAULT','ENCRYPT_DECRYPT','EXTERNAL','CUSTOMER',0,1795686451909540);
INSERT INTO "key" VALUES('e00766e8-e348-4bb5-962f-9677fef89a04','SYMMETRIC_DEFAULT','ENCRYPT_DECRYPT','AWS_KMS','CUSTOMER',0,1795686464365249);
CREATE TABLE key_grant (
	grant_id TEXT NOT NULL, 
	key_id TEXT NOT NULL, 
	region TEXT NOT NULL, 
	name TEXT NOT NULL, 
	grantee TEXT NOT NULL, 
	retiring TEXT, 
	operations TEXT NOT NULL, 
	context_equals TEXT, 
	context_subset TEXT, 
	creation_date INTEGER NOT NULL, 
	CONSTRAINT pk_key_grant PRIMARY KEY (grant_id), 
	CONSTRAINT fk_key_grant_key_id FOREIGN KEY(key_id, region) REFERENCES regional_key (key_id, region)
);
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
INSERT INTO "material" VALUES(1,'73e5df73-9826-4a81-9359-cf864ed9dfb2','fa27f506ccdd178793d3902f0e8bfc4f7da591b5ae2c223ab2a503bcdfe39388',1,'NON_CURRENT',1795686446522797,NULL,NULL,NULL,0);
INSERT INTO "material" VALUES(2,'73e5df73-9826-4a81-9359-cf864ed9dfb2','9fd082edb2ddc81deae380ab5d639937a1a0a0da962471e5bb2b1bf3647ee428',2,'CURRENT',1795686449627445,1795686449640573,'ON_DEMAND',NULL,0);
INSERT INTO "material" VALUES(3,'2640370e-09ac-421f-a2f9-7cb641b2e033','a4a717d09b7c425c1504580f3ae95eab0d104a59a42b1054357d0cbfe3c43262',1,'CURRENT',1795686460605494,NULL,NULL,NULL,0);
INSERT INTO "material" VALUES(4,'e00766e8-e348-4bb5-962f-9677fef89a04','6768b6edea254706cee71cf0a2c07a43adf4c4ab2465476a6c73801016d96f67',1,'CURRENT',1795686464365284,NULL,NULL,NULL,0);
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
INSERT INTO "material_presence" VALUES('73e5df73-9826-4a81-9359-cf864ed9dfb2','eu-central-1',1,1,NULL,NULL);
INSERT INTO "material_presence" VALUES('73e5df73-9826-4a81-9359-cf864ed9dfb2','eu-central-1',2,1,NULL,NULL);
INSERT INTO "material_presence" VALUES('2640370e-09ac-421f-a2f9-7cb641b2e033','eu-central-1',3,1,'KEY_MATERIAL_DOES_NOT_EXPIRE',NULL);
INSERT INTO "material_presence" VALUES('e00766e8-e348-4bb5-962f-9677fef89a04','eu-central-1',4,1,NULL,NULL);
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
INSERT INTO "regional_key" VALUES('73e5df73-9826-4a81-9359-cf864ed9dfb2','eu-central-1','LIVE','Enabled','frozen','{"Version":"2012-10-17","Id":"key-default-1","Statement":[{"Sid":"Enable IAM User Permissions","Effect":"Allow","Principal":{"AWS":"arn:aws:iam::111122223333:root"},"Action":"kms:*","Resource":"*"}]}',1795686446522763,NULL,NULL,6);
INSERT INTO "regional_key" VALUES('2640370e-09ac-421f-a2f9-7cb641b2e033','eu-central-1','LIVE','Enabled','','{"Version":"2012-10-17","Id":"key-default-1","Statement":[{"Sid":"Enable IAM User Permissions","Effect":"Allow","Principal":{"AWS":"arn:aws:iam::111122223333:root"},"Action":"kms:*","Resource":"*"}]}',1795686451909540,NULL,NULL,11);
INSERT INTO "regional_key" VALUES('e00766e8-e348-4bb5-962f-9677fef89a04','eu-central-1','LIVE','Disabled','','{"Version":"2012-10-17","Id":"key-default-1","Statement":[{"Sid":"Enable IAM User Permissions","Effect":"Allow","Principal":{"AWS":"arn:aws:iam::111122223333:root"},"Action":"kms:*","Resource":"*"}]}',1795686464365249,NULL,NULL,15);
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
INSERT INTO "tag" VALUES('73e5df73-9826-4a81-9359-cf864ed9dfb2','eu-central-1','made','then');
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
INSERT INTO "token" VALUES('fbacc445-de2c-43a7-93b7-5ea3e0ab0e49','hsmkms','16691216c3d02d45','SoftHSM project','SoftHSM v2',1795686445227411,X'9180C436531886D1DE19A20B471D0D8509FE6800CB05C00F74FC6A094FF7EF2A',X'8105DA175364EF8FFB1D81CEB65FB4A23DBF11AE3DCFD00E7E74DD2A72D94380');
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
INSERT INTO "token_object" VALUES('fbacc445-de2c-43a7-93b7-5ea3e0ab0e49',X'BF350F5AC9E949278E2CAA78A95D6155',1,'BACKING_KEY','PRESENT','hsmkms/37a82f26/eu-central-1/73e5df73-9826-4a81-9359-cf864ed9dfb2/1',1795686446522797);
INSERT INTO "token_object" VALUES('fbacc445-de2c-43a7-93b7-5ea3e0ab0e49',X'4131050C6EC148D9A16A37FBB2139DAE',2,'BACKING_KEY','PRESENT','hsmkms/37a82f26/eu-central-1/73e5df73-9826-4a81-9359-cf864ed9dfb2/2',1795686449627445);
INSERT INTO "token_object" VALUES('fbacc445-de2c-43a7-93b7-5ea3e0ab0e49',X'AE7F06E03AD549C7951E7169937E138C',3,'BACKING_KEY','PRESENT','hsmkms/37a82f26/eu-central-1/2640370e-09ac-421f-a2f9-7cb641b2e033/1',1795686460605494);
INSERT INTO "token_object" VALUES('fbacc445-de2c-43a7-93b7-5ea3e0ab0e49',X'37C67CD3FF2944B38911AC78186DAA41',4,'BACKING_KEY','PRESENT','hsmkms/37a82f26/eu-central-1/e00766e8-e348-4bb5-962f-9677fef89a04/1',1795686464365284);
CREATE TABLE user (
	name TEXT NOT NULL, 
	created_at INTEGER NOT NULL, 
	CONSTRAINT pk_user PRIMARY KEY (name)
);
INSERT INTO "user" VALUES('alice',1795686462248273);
CREATE TABLE user_group (
	name TEXT NOT NULL, 
	created_at INTEGER NOT NULL, 
	CONSTRAINT pk_user_group PRIMARY KEY (name)
);
CREATE TABLE user_policy (
	user_name TEXT NOT NULL, 
	policy_name TEXT NOT NULL, 
	document TEXT NOT NULL, 
	CONSTRAINT pk_user_policy PRIMARY KEY (user_name, policy_name), 
	CONSTRAINT fk_user_policy_user_name FOREIGN KEY(user_name) REFERENCES user (name)
);
CREATE TABLE user_tag (
	user_name TEXT NOT NULL, 
	tag_key TEXT NOT NULL, 
	tag_value TEXT NOT NULL, 
	CONSTRAINT pk_user_tag PRIMARY KEY (user_name, tag_key), 
	CONSTRAINT fk_user_tag_user_name FOREIGN KEY(user_name) REFERENCES user (name)
);
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
CREATE INDEX ix_access_key_user_name ON access_key (user_name);
CREATE INDEX ix_group_member_user_name ON group_member (user_name);
CREATE INDEX ix_key_grant_key_id ON key_grant (key_id, region, grantee);
CREATE INDEX ix_key_grant_retiring ON key_grant (retiring, region);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('change_log',15);
COMMIT;
