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
INSERT INTO "access_key" VALUES('AKIA4GQPC6UW3JXVI4OC','alice','Active',1795686353926736,1,X'E455DF2005924C00310FC504',X'024D77F93449A3F1E9CCD09B87D0EDE12DC479273F702EC47C5C26B875730C50EB54F54B1BB9CBD1E0BB568076FA70BAFD9268F97430B2C5');
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('meta_0006');
CREATE TABLE alias (
	region TEXT NOT NULL, 
	name TEXT NOT NULL, 
	key_id TEXT NOT NULL, 
	creation_date INTEGER NOT NULL, 
	last_updated_date INTEGER NOT NULL, 
	CONSTRAINT pk_alias PRIMARY KEY (region, name), 
	CONSTRAINT fk_alias_key_id FOREIGN KEY(key_id, region) REFERENCES regional_key (key_id, region)
);
INSERT INTO "alias" VALUES('eu-central-1','alias/frozen','e43c0da1-036a-423e-8f7e-f6db6b850254',1795686334022952,1795686334022952);
CREATE TABLE audit_outbox (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	lane TEXT NOT NULL, 
	event_id TEXT NOT NULL, 
	record BLOB NOT NULL
);
CREATE TABLE change_log (
	epoch INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	region TEXT NOT NULL, 
	subject TEXT NOT NULL
);
INSERT INTO "change_log" VALUES(1,'eu-central-1','e43c0da1-036a-423e-8f7e-f6db6b850254');
INSERT INTO "change_log" VALUES(2,'eu-central-1','e43c0da1-036a-423e-8f7e-f6db6b850254');
INSERT INTO "change_log" VALUES(3,'eu-central-1','alias/frozen');
INSERT INTO "change_log" VALUES(4,'eu-central-1','e43c0da1-036a-423e-8f7e-f6db6b850254');
INSERT INTO "change_log" VALUES(5,'eu-central-1','e43c0da1-036a-423e-8f7e-f6db6b850254');
INSERT INTO "change_log" VALUES(6,'eu-central-1','e43c0da1-036a-423e-8f7e-f6db6b850254');
INSERT INTO "change_log" VALUES(7,'eu-central-1','7f30489e-46c7-4319-a30d-81a7309b3725');
INSERT INTO "change_log" VALUES(8,'eu-central-1','7f30489e-46c7-4319-a30d-81a7309b3725');
INSERT INTO "change_log" VALUES(9,'eu-central-1','7f30489e-46c7-4319-a30d-81a7309b3725');
INSERT INTO "change_log" VALUES(10,'eu-central-1','7f30489e-46c7-4319-a30d-81a7309b3725');
INSERT INTO "change_log" VALUES(11,'eu-central-1','7f30489e-46c7-4319-a30d-81a7309b3725');
INSERT INTO "change_log" VALUES(12,'','AKIA4GQPC6UW3JXVI4OC');
INSERT INTO "change_log" VALUES(13,'eu-central-1','mrk-7f9f087c2f19493285e7e6755197c06c');
INSERT INTO "change_log" VALUES(14,'eu-central-1','mrk-7f9f087c2f19493285e7e6755197c06c');
INSERT INTO "change_log" VALUES(15,'eu-central-1','69a27056-b725-41d4-a557-ec9a1188083f');
INSERT INTO "change_log" VALUES(16,'eu-central-1','69a27056-b725-41d4-a557-ec9a1188083f');
INSERT INTO "change_log" VALUES(17,'eu-central-1','69a27056-b725-41d4-a557-ec9a1188083f');
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
INSERT INTO "installation" VALUES(1,'0ef8e7ea72c34aab8b24a72b6c7a09c1','111122223333',1795686329923272,NULL,NULL,NULL);
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
INSERT INTO "installation_key" VALUES('mac',1,'26673f27-50b2-46d3-8028-b50e2a27b8f8',X'21F92B0699D74AE285D184A1B4146843',1795686329930172);
INSERT INTO "installation_key" VALUES('audit-seal',1,'26673f27-50b2-46d3-8028-b50e2a27b8f8',X'88C4884C59B8405DA941FEA0D0738A98',1795686332203524);
INSERT INTO "installation_key" VALUES('secrets',1,'26673f27-50b2-46d3-8028-b50e2a27b8f8',X'12640EB4D9374EA1A43DD645D0E25F00',1795686353896423);
CREATE TABLE "key" (
	key_id TEXT NOT NULL, 
	spec TEXT NOT NULL, 
	usage TEXT NOT NULL, 
	origin TEXT NOT NULL, 
	manager TEXT NOT NULL, 
	multi_region BOOLEAN NOT NULL, 
	creation_date INTEGER NOT NULL, primary_region TEXT, 
	CONSTRAINT pk_key PRIMARY KEY (key_id), 
	CONSTRAINT ck_key_spec CHECK (spec IN ('RSA_2048', 'RSA_3072', 'RSA_4096', 'ECC_NIST_P256', 'ECC_NIST_P384', 'ECC_NIST_P521', 'ECC_SECG_P256K1', 'SYMMETRIC_DEFAULT', 'HMAC_224', 'HMAC_256', 'HMAC_384', 'HMAC_512', 'ML_DSA_44', 'ML_DSA_65', 'ML_DSA_87', 'ECC_NIST_EDWARDS25519', 'ML_KEM_512', 'ML_KEM_768', 'ML_KEM_1024')), 
	CONSTRAINT ck_key_usage CHECK (usage IN ('SIGN_VERIFY', 'ENCRYPT_DECRYPT', 'GENERATE_VERIFY_MAC', 'KEY_AGREEMENT', 'ENCAPSULATE_DECAPSULATE')), 
	CONSTRAINT ck_key_origin CHECK (origin IN ('AWS_KMS', 'EXTERNAL', 'AWS_CLOUDHSM', 'EXTERNAL_KEY_STORE')), 
	CONSTRAINT ck_key_manager CHECK (manager IN ('AWS', 'CUSTOMER'))
);
INSERT INTO "key" VALUES('e43c0da1-036a-423e-8f7e-f6db6b850254','SYMMETRIC_DEFAULT','ENCRYPT_DECRYPT','AWS_KMS','CUSTOMER',0,1795686332142055,NULL);
INSERT INTO "key" VALUES('7f30489e-46c7-4319-a30d-81a7309b3725','SYMMETRIC_DEFAULT','ENCRYPT_DECRYPT','EXTERNAL','CUSTOMER',0,1795686342008033,NULL);
INSERT INTO "key" VALUES('mrk-7f9f087c2f19493285e7e6755197c06c','SYMMETRIC_DEFAULT','ENCRYPT_DECRYPT','AWS_KMS','CUSTOMER',1,1795686356705384,'eu-central-1');
INSERT INTO "key" VALUES('69a27056-b725-41d4-a557-ec9a1188083f','SYMMETRIC_DEFAULT','ENCRYPT_DECRYPT','AWS_KMS','CUSTOMER',0,1795686361181543,NULL);
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
INSERT INTO "material" VALUES(1,'e43c0da1-036a-423e-8f7e-f6db6b850254','8b2635d214c2d3aedf60d0e411691357071317dab68cf9b47fff74d2e22c5f92',1,'NON_CURRENT',1795686332142089,NULL,NULL,NULL,0);
INSERT INTO "material" VALUES(2,'e43c0da1-036a-423e-8f7e-f6db6b850254','8925feb8a03847c7030cf83e219994b12972e52ef9bf76dd2a3ce359202ee385',2,'CURRENT',1795686337797980,1795686337842174,'ON_DEMAND',NULL,0);
INSERT INTO "material" VALUES(3,'7f30489e-46c7-4319-a30d-81a7309b3725','bb29828a39fd61e236c8d35c839704e0fe3569d30d69400bd05df73b68b5e561',1,'CURRENT',1795686347649470,NULL,NULL,NULL,0);
INSERT INTO "material" VALUES(4,'mrk-7f9f087c2f19493285e7e6755197c06c','880e5b7a0ca11fab67a061979ea20578689daa5942efdfb0d45754551f92af95',1,'CURRENT',1795686356705417,NULL,NULL,NULL,0);
INSERT INTO "material" VALUES(5,'69a27056-b725-41d4-a557-ec9a1188083f','8193254e644ecfa7773d01f1254fea3c6c1ce48b96b620c6dfa0cef0cc114d41',1,'CURRENT',1795686361181572,NULL,NULL,NULL,0);
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
INSERT INTO "material_presence" VALUES('e43c0da1-036a-423e-8f7e-f6db6b850254','eu-central-1',1,1,NULL,NULL);
INSERT INTO "material_presence" VALUES('e43c0da1-036a-423e-8f7e-f6db6b850254','eu-central-1',2,1,NULL,NULL);
INSERT INTO "material_presence" VALUES('7f30489e-46c7-4319-a30d-81a7309b3725','eu-central-1',3,1,'KEY_MATERIAL_DOES_NOT_EXPIRE',NULL);
INSERT INTO "material_presence" VALUES('mrk-7f9f087c2f19493285e7e6755197c06c','eu-central-1',4,1,NULL,NULL);
INSERT INTO "material_presence" VALUES('69a27056-b725-41d4-a557-ec9a1188083f','eu-central-1',5,1,NULL,NULL);
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
INSERT INTO "regional_key" VALUES('e43c0da1-036a-423e-8f7e-f6db6b850254','eu-central-1','LIVE','Enabled','frozen','{"Version":"2012-10-17","Id":"key-default-1","Statement":[{"Sid":"Enable IAM User Permissions","Effect":"Allow","Principal":{"AWS":"arn:aws:iam::111122223333:root"},"Action":"kms:*","Resource":"*"}]}',1795686332142055,NULL,NULL,6);
INSERT INTO "regional_key" VALUES('7f30489e-46c7-4319-a30d-81a7309b3725','eu-central-1','LIVE','Enabled','','{"Version":"2012-10-17","Id":"key-default-1","Statement":[{"Sid":"Enable IAM User Permissions","Effect":"Allow","Principal":{"AWS":"arn:aws:iam::111122223333:root"},"Action":"kms:*","Resource":"*"}]}',1795686342008033,NULL,NULL,11);
INSERT INTO "regional_key" VALUES('mrk-7f9f087c2f19493285e7e6755197c06c','eu-central-1','LIVE','Enabled','','{"Version":"2012-10-17","Id":"key-default-1","Statement":[{"Sid":"Enable IAM User Permissions","Effect":"Allow","Principal":{"AWS":"arn:aws:iam::111122223333:root"},"Action":"kms:*","Resource":"*"}]}',1795686356705384,NULL,NULL,14);
INSERT INTO "regional_key" VALUES('69a27056-b725-41d4-a557-ec9a1188083f','eu-central-1','LIVE','Disabled','','{"Version":"2012-10-17","Id":"key-default-1","Statement":[{"Sid":"Enable IAM User Permissions","Effect":"Allow","Principal":{"AWS":"arn:aws:iam::111122223333:root"},"Action":"kms:*","Resource":"*"}]}',1795686361181543,NULL,NULL,17);
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
INSERT INTO "tag" VALUES('e43c0da1-036a-423e-8f7e-f6db6b850254','eu-central-1','made','then');
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
INSERT INTO "token" VALUES('26673f27-50b2-46d3-8028-b50e2a27b8f8','hsmkms','34606a7b488a7fc0','SoftHSM project','SoftHSM v2',1795686329924771,X'35E6F7446428A27D1E1A1486240DE5019A95CC05C80302F4D5EBD5280C94C709',X'62D348C94F73489CA610A5E7AFB6F9618BF68D579555AEF591D0589344D3A5B7');
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
INSERT INTO "token_object" VALUES('26673f27-50b2-46d3-8028-b50e2a27b8f8',X'C5445C09DA5E405DAF669894E090F3DF',1,'BACKING_KEY','PRESENT','hsmkms/0ef8e7ea/eu-central-1/e43c0da1-036a-423e-8f7e-f6db6b850254/1',1795686332142089);
INSERT INTO "token_object" VALUES('26673f27-50b2-46d3-8028-b50e2a27b8f8',X'74DA2B36B4CA4FB0BA42DCA93A275950',2,'BACKING_KEY','PRESENT','hsmkms/0ef8e7ea/eu-central-1/e43c0da1-036a-423e-8f7e-f6db6b850254/2',1795686337797980);
INSERT INTO "token_object" VALUES('26673f27-50b2-46d3-8028-b50e2a27b8f8',X'F2C86D855BEE43B6AF019E966BAAEE15',3,'BACKING_KEY','PRESENT','hsmkms/0ef8e7ea/eu-central-1/7f30489e-46c7-4319-a30d-81a7309b3725/1',1795686347649470);
INSERT INTO "token_object" VALUES('26673f27-50b2-46d3-8028-b50e2a27b8f8',X'5CAA1D5541EC4F248DCC3942BB8DB04C',4,'BACKING_KEY','PRESENT','hsmkms/0ef8e7ea/eu-central-1/mrk-7f9f087c2f19493285e7e6755197c06c/1',1795686356705417);
INSERT INTO "token_object" VALUES('26673f27-50b2-46d3-8028-b50e2a27b8f8',X'EFF6AED94BBC47458C1F8C5D45FA644F',5,'BACKING_KEY','PRESENT','hsmkms/0ef8e7ea/eu-central-1/69a27056-b725-41d4-a557-ec9a1188083f/1',1795686361181572);
CREATE TABLE user (
	name TEXT NOT NULL, 
	created_at INTEGER NOT NULL, 
	CONSTRAINT pk_user PRIMARY KEY (name)
);
INSERT INTO "user" VALUES('alice',1795686351794082);
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
INSERT INTO "sqlite_sequence" VALUES('change_log',17);
INSERT INTO "sqlite_sequence" VALUES('audit_outbox',14);
COMMIT;
