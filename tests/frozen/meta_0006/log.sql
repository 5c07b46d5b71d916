BEGIN TRANSACTION;
CREATE TABLE access_key_use (
	access_key_id TEXT NOT NULL, 
	region TEXT NOT NULL, 
	used_at INTEGER NOT NULL, 
	CONSTRAINT pk_access_key_use PRIMARY KEY (access_key_id)
);
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('log_0003');
CREATE TABLE encryption_count (
	material_id TEXT NOT NULL, 
	reserved INTEGER NOT NULL, 
	CONSTRAINT pk_encryption_count PRIMARY KEY (material_id), 
	CONSTRAINT ck_encryption_count_reserved CHECK (reserved >= 0)
);
INSERT INTO "encryption_count" VALUES('8b2635d214c2d3aedf60d0e411691357071317dab68cf9b47fff74d2e22c5f92',1);
INSERT INTO "encryption_count" VALUES('8925feb8a03847c7030cf83e219994b12972e52ef9bf76dd2a3ce359202ee385',1);
INSERT INTO "encryption_count" VALUES('bb29828a39fd61e236c8d35c839704e0fe3569d30d69400bd05df73b68b5e561',1);
INSERT INTO "encryption_count" VALUES('880e5b7a0ca11fab67a061979ea20578689daa5942efdfb0d45754551f92af95',1);
CREATE TABLE last_use (
	key_id TEXT NOT NULL, 
	region TEXT NOT NULL, 
	operation TEXT NOT NULL, 
	used_at INTEGER NOT NULL, 
	request_id TEXT NOT NULL, 
	CONSTRAINT pk_last_use PRIMARY KEY (key_id, region), 
	CONSTRAINT ck_last_use_operation CHECK (operation IN ('Decrypt', 'DeriveSharedSecret', 'Encrypt', 'GenerateDataKey', 'GenerateDataKeyPair', 'GenerateDataKeyPairWithoutPlaintext', 'GenerateDataKeyWithoutPlaintext', 'GenerateMac', 'ReEncrypt', 'Sign', 'Verify', 'VerifyMac', 'Encapsulate', 'Decapsulate'))
);
INSERT INTO "last_use" VALUES('e43c0da1-036a-423e-8f7e-f6db6b850254','eu-central-1','Encrypt',1795686340181178,'a4a66ce7-83ff-4f26-aa80-24dd39e9870b');
INSERT INTO "last_use" VALUES('7f30489e-46c7-4319-a30d-81a7309b3725','eu-central-1','Encrypt',1795686349600016,'93d52cc1-5f2d-4365-a03c-ae4dc8cfcff5');
INSERT INTO "last_use" VALUES('mrk-7f9f087c2f19493285e7e6755197c06c','eu-central-1','Encrypt',1795686359357508,'d94421a7-12da-41b8-a645-f908c3ffd17a');
CREATE TABLE sweeper (
	only INTEGER NOT NULL, 
	holder TEXT NOT NULL, 
	until INTEGER NOT NULL, 
	CONSTRAINT pk_sweeper PRIMARY KEY (only), 
	CONSTRAINT ck_sweeper_only CHECK (only = 1)
);
CREATE TABLE use_tracking (
	only INTEGER NOT NULL, 
	since INTEGER NOT NULL, 
	CONSTRAINT pk_use_tracking PRIMARY KEY (only), 
	CONSTRAINT ck_use_tracking_only CHECK (only = 1)
);
INSERT INTO "use_tracking" VALUES(1,1795686329779430);
COMMIT;
