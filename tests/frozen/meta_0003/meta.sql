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
INSERT INTO "access_key" VALUES('AKIAX5TOYI7QHR65PUJ7','alice','Active',1795686324567703,1,X'6785BC9029C60DFBB45D210F',X'EE9EBF0514C5BE07976AD9AA3705BA4E96D19009989EDA5DEB7EFA74D0E49F024CE9B5FC0FCE0A32FC411A3862F39147C771A6767E04D9C9');
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('meta_0003');
CREATE TABLE alias (
	region TEXT NOT NULL, 
	name TEXT NOT NULL, 
	key_id TEXT NOT NULL, 
	creation_date INTEGER NOT NULL, 
	last_updated_date INTEGER NOT NULL, 
	CONSTRAINT pk_alias PRIMARY KEY (region, name), 
	CONSTRAINT fk_alias_key_id FOREIGN KEY(key_id, region) REFERENCES regional_key (key_id, region)
);
INSERT INTO "alias" VALUES('eu-central-1','alias/frozen','5b3a3788-0c75-4cb9-af5d-33bb6f78cc81',1795686288246479,1795686288246479);
CREATE TABLE change_log (
	epoch INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	region TEXT NOT NULL, 
	subject TEXT NOT NULL
);
INSERT INTO "change_log" VALUES(1,'eu-central-1','5b3a3788-0c75-4cb9-af5d-33bb6f78cc81');
INSERT INTO "change_log" VALUES(2,'eu-central-1','5b3a3788-0c75-4cb9-af5d-33bb6f78cc81');
INSERT INTO "change_log" VALUES(3,'eu-central-1','alias/frozen');
INSERT INTO "change_log" VALUES(4,'eu-central-1','5b3a3788-0c75-4cb9-af5d-33bb6f78cc81');
INSERT INTO "change_log" VALUES(5,'eu-central-1','5b3a3788-0c75-4cb9-af5d-33bb6f78cc81');
INSERT INTO "change_log" VALUES(6,'eu-central-1','7361fdbc-2258-4b41-b778-73a9315a4f25');
INSERT INTO "change_log" VALUES(7,'eu-central-1','7361fdbc-2258-4b41-b778-73a9315a4f25');
INSERT INTO "change_log" VALUES(8,'eu-central-1','7361fdbc-2258-4b41-b778-73a9315a4f25');
INSERT INTO "change_log" VALUES(9,'eu-central-1','7361fdbc-2258-4b41-b778-73a9315a4f25');
INSERT INTO "change_log" VALUES(10,'eu-central-1','7361fdbc-2258-4b41-b778-73a9315a4f25');
INSERT INTO "change_log" VALUES(11,'','AKIAX5TOYI7QHR65PUJ7');
INSERT INTO "change_log" VALUES(12,'eu-central-1','9c092402-fd3a-44a9-88e3-2c7c24792547');
INSERT INTO "change_log" VALUES(13,'eu-central-1','9c092402-fd3a-44a9-88e3-2c7c24792547');
INSERT INTO "change_log" VALUES(14,'eu-central-1','9c092402-fd3a-44a9-88e3-2c7c24792547');
CREATE TABLE installation (
	only INTEGER NOT NULL, 
	id TEXT NOT NULL, 
	account TEXT NOT NULL, 
	created_at INTEGER NOT NULL, 
	restored_at INTEGER, clock_trusted_at INTEGER, clock_trusted_over INTEGER, 
	CONSTRAINT pk_installation PRIMARY KEY (only), 
	CONSTRAINT ck_installation_only CHECK (only = 1)
);
INSERT INTO "installation" VALUES(1,'4f453b9290424bf7bd8efc6cc2793f73','111122223333',1795686280556774,NULL,NULL,NULL);
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
INSERT INTO "installation_key" VALUES('mac',1,'650c085e-7418-4aef-b8d6-497bb8fe6a65',X'51568AF38B624CEFB098F5ADC4C76D16',1795686280567768);
INSERT INTO "installation_key" VALUES('secrets',1,'650c085e-7418-4aef-b8d6-497bb8fe6a65',X'59695AD25C724DE1973E949CC13FC754',1795686324497447);
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
INSERT INTO "key" VALUES('5b3a3788-0c75-4cb9-af5d-33bb6f78cc81','SYMMETRIC_DEFAULT','ENCRYPT_DECRYPT','AWS_KMS','CUSTOMER',0,1795686283733359);
INSERT INTO "key" VALUES('7361fdbc-2258-4b41-b778-73a9315a4f25','SYMMETRIC_DEFAULT','ENCRYPT_DECRYPT','EXTERNAL','CUSTOMER',0,1795686305591776);
INSERT INTO "key" VALUES('9c092402-fd3a-44a9-88e3-2c7c24792547','SYMMETRIC_DEFAULT','ENCRYPT_DECRYPT','AWS_KMS','CUSTOMER',0,1795686325775993);
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
INSERT INTO "material" VALUES(1,'5b3a3788-0c75-4cb9-af5d-33bb6f78cc81','6abc92528a302822d0c7a45f4407c8d04a1c827501443c3fa256a3103439c253',1,'NON_CURRENT',1795686283733398,NULL,NULL,NULL,0);
INSERT INTO "material" VALUES(2,'5b3a3788-0c75-4cb9-af5d-33bb6f78cc81','07004cdb3398e792e0547b6adbbfff9735fc1d88243cd8d718371fa536e030a2',2,'CURRENT',1795686297977636,1795686298018415,'ON_DEMAND',NULL,0);
INSERT INTO "material" VALUES(3,'7361fdbc-2258-4b41-b778-73a9315a4f25','dc28b19c7a0bc68ff9075c40b8105ac22ba5c7c44be37349c775a71eaa417af7',1,'CURRENT',1795686316424521,NULL,NULL,NULL,0);
INSERT INTO "material" VALUES(4,'9c092402-fd3a-44a9-88e3-2c7c24792547','45e4dfcf1565beb83323d12d56c6efb9b0870f96b47ef4657971e67516e77c1b',1,'CURRENT',1795686325776028,NULL,NULL,NULL,0);
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
INSERT INTO "material_presence" VALUES('5b3a3788-0c75-4cb9-af5d-33bb6f78cc81','eu-central-1',1,1,NULL,NULL);
INSERT INTO "material_presence" VALUES('5b3a3788-0c75-4cb9-af5d-33bb6f78cc81','eu-central-1',2,1,NULL,NULL);
INSERT INTO "material_presence" VALUES('7361fdbc-2258-4b41-b778-73a9315a4f25','eu-central-1',3,1,'KEY_MATERIAL_DOES_NOT_EXPIRE',NULL);
INSERT INTO "material_presence" VALUES('9c092402-fd3a-44a9-88e3-2c7c24792547','eu-central-1',4,1,NULL,NULL);
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
INSERT INTO "regional_key" VALUES('5b3a3788-0c75-4cb9-af5d-33bb6f78cc81','eu-central-1','LIVE','Enabled','frozen','{"Version":"2012-10-17","Id":"key-default-1","Statement":[{"Sid":"Enable IAM User Permissions","Effect":"Allow","Principal":{"AWS":"arn:aws:iam::111122223333:root"},"Action":"kms:*","Resource":"*"}]}',1795686283733359,NULL,NULL,5);
INSERT INTO "regional_key" VALUES('7361fdbc-2258-4b41-b778-73a9315a4f25','eu-central-1','LIVE','Enabled','','{"Version":"2012-10-17","Id":"key-default-1","Statement":[{"Sid":"Enable IAM User Permissions","Effect":"Allow","Principal":{"AWS":"arn:aws:iam::111122223333:root"},"Action":"kms:*","Resource":"*"}]}',1795686305591776,NULL,NULL,10);
INSERT INTO "regional_key" VALUES('9c092402-fd3a-44a9-88e3-2c7c24792547','eu-central-1','LIVE','Disabled','','{"Version":"2012-10-17","Id":"key-default-1","Statement":[{"Sid":"Enable IAM User Permissions","Effect":"Allow","Principal":{"AWS":"arn:aws:iam::111122223333:root"},"Action":"kms:*","Resource":"*"}]}',1795686325775993,NULL,NULL,14);
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
INSERT INTO "tag" VALUES('5b3a3788-0c75-4cb9-af5d-33bb6f78cc81','eu-central-1','made','then');
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
INSERT INTO "token" VALUES('650c085e-7418-4aef-b8d6-497bb8fe6a65','hsmkms','0578ae3edbd2a7f3','SoftHSM project','SoftHSM v2',1795686280566481,X'A911B70CA920446E61732742E580AD859E5261C9FD2EEEF6A7CF875A24BC60D5',X'33C0E758353B1922EDB246EFB43E660D09634E563F4CFF397F06EEDDE4DD68D2');
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
INSERT INTO "token_object" VALUES('650c085e-7418-4aef-b8d6-497bb8fe6a65',X'270C0B20D8DF4E21BA43E4E0E22DADFC',1,'BACKING_KEY','PRESENT','hsmkms/4f453b92/eu-central-1/5b3a3788-0c75-4cb9-af5d-33bb6f78cc81/1',1795686283733398);
INSERT INTO "token_object" VALUES('650c085e-7418-4aef-b8d6-497bb8fe6a65',X'B916E4636AA047C6B03C310856A64535',2,'BACKING_KEY','PRESENT','hsmkms/4f453b92/eu-central-1/5b3a3788-0c75-4cb9-af5d-33bb6f78cc81/2',1795686297977636);
INSERT INTO "token_object" VALUES('650c085e-7418-4aef-b8d6-497bb8fe6a65',X'D366008380EA4DE8B26BC19ED813EDF5',3,'BACKING_KEY','PRESENT','hsmkms/4f453b92/eu-central-1/7361fdbc-2258-4b41-b778-73a9315a4f25/1',1795686316424521);
INSERT INTO "token_object" VALUES('650c085e-7418-4aef-b8d6-497bb8fe6a65',X'A8BEEF93B3FC46168EAD524F07922441',4,'BACKING_KEY','PRESENT','hsmkms/4f453b92/eu-central-1/9c092402-fd3a-44a9-88e3-2c7c24792547/1',1795686325776028);
CREATE TABLE user (
	name TEXT NOT NULL, 
	created_at INTEGER NOT NULL, 
	CONSTRAINT pk_user PRIMARY KEY (name)
);
INSERT INTO "user" VALUES('alice',1795686322241492);
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
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('change_log',14);
COMMIT;
